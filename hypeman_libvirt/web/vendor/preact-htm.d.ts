/** What the page uses of preact and htm; the module itself has no types. */

export function html(strings: TemplateStringsArray, ...values: unknown[]): unknown;
export function render(view: unknown, parent: Element): void;
export function useState<T>(initial: T | (() => T)): [T, (value: T) => void];
export function useReducer<S, A>(
  reduce: (state: S, action: A) => S,
  initial: S,
): [S, (action: A) => void];
export function useEffect(effect: () => void | (() => void), inputs?: unknown[]): void;
export function useMemo<T>(make: () => T, inputs: unknown[]): T;
export function useRef<T>(initial: T): { current: T };
