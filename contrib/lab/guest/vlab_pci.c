// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0
/*
 * Show emulated PCI devices under other ids and give them a driver called "nvidia":
 *
 *   modprobe vlab_pci ids=0000:82:00.0=10de:2330:030200,0000:81:00.0=10de:27b8:030200
 *
 * Only struct pci_dev changes, which is what sysfs, udev and libvirt read; the config space stays as it is.
 */
#include <linux/delay.h>
#include <linux/module.h>
#include <linux/pci.h>

static char *ids[16];
static int ids_count;
module_param_array(ids, charp, &ids_count, 0444);
MODULE_PARM_DESC(ids, "ADDRESS=VENDOR:DEVICE:CLASS,... in hex");

static int remove_ms;
module_param(remove_ms, int, 0644);
MODULE_PARM_DESC(remove_ms, "milliseconds the driver takes to let a device go");

static int probe_err;
module_param(probe_err, int, 0644);
MODULE_PARM_DESC(probe_err, "errno with which the driver refuses a device");

static int vlab_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	return -probe_err;
}

static void vlab_remove(struct pci_dev *pdev)
{
	msleep(remove_ms);
}

static const struct pci_device_id vlab_table[] = {
	{
		.vendor = PCI_VENDOR_ID_NVIDIA,
		.device = PCI_ANY_ID,
		.subvendor = PCI_ANY_ID,
		.subdevice = PCI_ANY_ID,
		.class = PCI_BASE_CLASS_DISPLAY << 16,
		.class_mask = 0xff0000,
	},
	{ }
};

static struct pci_driver vlab_driver = {
	.name = "nvidia",
	.id_table = vlab_table,
	.probe = vlab_probe,
	.remove = vlab_remove,
};

static int vlab_rename(const char *entry)
{
	unsigned int domain, bus, slot, function, vendor, device, class;
	struct pci_dev *pdev;

	if (sscanf(entry, "%x:%x:%x.%x=%x:%x:%x", &domain, &bus, &slot, &function, &vendor, &device, &class) != 7)
		return -EINVAL;
	pdev = pci_get_domain_bus_and_slot(domain, bus, PCI_DEVFN(slot, function));
	if (!pdev)
		return -ENODEV;
	pdev->vendor = vendor;
	pdev->subsystem_vendor = vendor;
	pdev->device = device;
	pdev->class = class;
	pci_dev_put(pdev);
	return 0;
}

static int __init vlab_init(void)
{
	int i, err;

	for (i = 0; i < ids_count; i++) {
		err = vlab_rename(ids[i]);
		if (err) {
			pr_err("vlab_pci: %s: error %d\n", ids[i], err);
			return err;
		}
	}
	return pci_register_driver(&vlab_driver);
}

static void __exit vlab_exit(void)
{
	pci_unregister_driver(&vlab_driver);
}

module_init(vlab_init);
module_exit(vlab_exit);
MODULE_DESCRIPTION("PCI devices of the lab under other ids");
MODULE_LICENSE("GPL");
