/** What the API answers, as far as the page reads it; api/openapi.yaml describes all of it. */

export interface HostFunction {
  pci_address: string;
  vendor_id: string;
  device_id: string;
  vendor_name?: string;
  device_name?: string;
  iommu_group: number | null;
  current_driver: string | null;
  type: "gpu" | "pci";
  class: string | null;
  numa_node: number | null;
  registered_as: string | null;
  attached_to: string | null;
  attached_domain?: string;
  assignable: boolean;
  node_name: string;
  parent: string | null;
  physical_function?: string;
  virtual_functions?: string[];
  max_virtual_functions?: number;
  link?: { speed: number; width: number; max_speed: number; max_width: number };
  vgpu_profiles?: { type_id: string; name: string; available: number }[];
  topology?: string;
  mdev_uuid?: string;
  mdev_type?: string;
  health: Health;
  host_uses: { what: string; known: boolean }[];
  users: { domain: string; via: string }[];
}

export interface Health {
  status: "ok" | "quarantined";
  reason?: string;
  since?: string;
}

export interface Group {
  iommu_group: number;
  viable: boolean;
  reason: string | null;
  status: "viable" | "needs_bind" | "never";
}

export interface Domain {
  uuid: string;
  name: string;
  state: string;
  instance: string;
}

export interface Topology {
  functions: HostFunction[];
  iommu_groups: Group[];
  domains: Domain[];
}

export interface Device {
  id: string;
  name: string;
  pci_address: string;
  bound_to_vfio: boolean;
  created_at: string;
  vendor_id: string;
  device_id: string;
  iommu_group: number;
  type: "gpu" | "pci";
  attached_to: string | null;
  attached_domain?: string;
  tags?: Record<string, string>;
  state: "present" | "missing" | "changed" | "moved";
  candidates?: string[];
  moved_from?: string;
  health: Health;
  parent?: string;
  profile?: string;
  mdev_uuid?: string;
  persistent?: boolean;
}

/** What one look at the host gave. */
export interface Host {
  topology: Topology;
  devices: Device[];
}

export interface Check {
  id: string;
  severity: "ok" | "warning" | "error";
  message: string;
  hint: string | null;
}

export interface Preflight {
  ready: boolean;
  checks: Check[];
}

export interface DeviceEvent {
  type: string;
  at: string;
  pci_address: string;
  id: string | null;
  name: string | null;
  current_driver: string | null;
  attached_to: string | null;
}

export interface PastChange {
  at: string;
  action: string;
  by: string | null;
  forced: boolean;
  id: string;
  name: string;
  pci_address: string;
  current_driver: string | null;
  attached_domain: string | null;
}

export interface Minute {
  minute: string;
  operation: string;
  successes: number;
  failures: number;
}

export interface History {
  changes: PastChange[];
  events: DeviceEvent[];
  operations: Minute[];
}

export interface Session {
  subject: string | null;
  permissions: string[];
  expires: string | null;
  dashboard: string | null;
}

export interface VgpuProfile {
  name: string;
  available: number;
  parents: { pci_address: string; name?: string; available: number }[];
}

/** A function, or a device that is none, such as a vGPU or one whose card is gone. */
export interface Card {
  /** PCI address, UUID of a mediated device, or the id of a device without either. */
  key: string;
  fn: HostFunction | null;
  device: Device | null;
  group: Group | null;
  /** Virtual functions and vGPUs. */
  slices: Card[];
}

export interface Box {
  number: number | null;
  group: Group | null;
  cards: Card[];
  /** Ports below which the group goes on. */
  elsewhere: string[];
}

export interface Port {
  key: string;
  bridge: HostFunction | null;
  boxes: Box[];
  cards: Card[];
}

export interface Picture {
  sockets: { key: string; title: string; ports: Port[] }[];
  /** Registered devices whose card is not on the host. */
  lost: Card[];
  cards: Map<string, Card>;
  shown: number;
  total: number;
}

export interface Filter {
  text: string;
  kind: string;
  state: string;
  tag: string;
  bridges: boolean;
}

export interface Request {
  path: string;
  method: string;
  body?: unknown;
}

export type Values = Record<string, any>;

/** What preflight says, by purpose and scope. */
export type Preflights = Record<"bind" | "attach", Record<string, Preflight>>;

export interface Context {
  card: Card;
  /** Other functions of its IOMMU group that can be passed through. */
  siblings: Card[];
  host: Host;
  session: Session;
  /** The OpenAPI document of the running service. */
  spec: any;
  /** Null until they have been asked for. */
  preflights: Preflights | null;
  profiles: VgpuProfile[];
}

export interface Field {
  name: string;
  label: string;
  kind: "text" | "choice" | "check" | "tags" | "number";
  initial: unknown;
  /** Value and text. */
  options?: [string, string][];
  help?: string;
  most?: number;
}

export interface Action {
  id: string;
  label: string;
  permission?: string;
  /** Whether it makes sense for a card at all; without, for every registered device. */
  fits?(context: Context): boolean;
  /** Why it cannot be done now. */
  why?(context: Context): string | null | undefined;
  fields?(context: Context): Field[];
  /** What it will do. */
  words(context: Context, values: Values): string[];
  /** Then the name is asked for. */
  dangerous?(context: Context, values: Values): boolean;
  /** What asks the service beforehand. */
  preflight?(context: Context, values: Values): string;
  /** The same on the command line. */
  command?(context: Context, values: Values): string | null;
  request(context: Context, values: Values): Request;
  done(context: Context, values: Values, answer: any): string;
  undo?(context: Context, values: Values, answer: any): Request | null;
}

export interface Job {
  id: number;
  text: string;
  state: "runs" | "done" | "failed";
  since: number;
  undo: Request | null;
  error: import("./api.js").ApiError | null;
}

/** What the page knows of the host. */
export interface Live {
  /** As it was last seen. */
  host: Host | null;
  /** Why that may be older than now, and since when. */
  trouble: { what: string; since: number } | null;
  /** What changed a moment ago, by the card's key. */
  marks: Map<string, Mark>;
  /** Events come. */
  following: boolean;
  /** Grows with each event. */
  version: number;
  /** For screen readers. */
  said: string;
}

export interface Mark {
  text: string;
  at: number;
}

export type LiveAction =
  | { type: "host"; host: Host; at: number }
  | { type: "trouble"; what: string; at: number }
  | { type: "following"; following: boolean }
  | { type: "event"; said: string }
  | { type: "fade"; at: number };

/** What the picture needs beside the host. */
export interface Shown {
  selected: string | null;
  onSelect(key: string): void;
  marks: Map<string, Mark>;
  /** What was opened or closed, by key. */
  open: Map<string, boolean>;
  onOpen(key: string, open: boolean): void;
  /** So many functions that ports begin closed. */
  dense: boolean;
}

/** Of a request: as fetch takes them, the body before it is written as JSON. */
export interface Options {
  method?: string;
  body?: unknown;
  headers?: Record<string, string>;
  signal?: AbortSignal;
}

/** Something to do, and what to say of it. */
export interface Doing {
  text: string;
  request: Request;
  done(answer: any): string;
  undo?(answer: any): Request | null;
}

/** What a form needs before it can be sent. */
export interface Filled {
  fields: Field[];
  values: Values;
  danger: boolean;
  confirmed: string;
  name: string;
  preflight: Preflight | null;
}

export type Step =
  | { type: "begin"; job: Job }
  | { type: "end"; id: number; change: Partial<Job> }
  | { type: "dismiss"; id: number };
