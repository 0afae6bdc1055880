// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0
/*
 * A driver that cuts a PCI device into mediated devices, as NVIDIA's did with GPUs before Linux 6.8:
 *
 *   modprobe vlab_mdev
 *   echo vlab_mdev > /sys/bus/pci/devices/0000:06:00.0/driver_override
 *   echo 0000:06:00.0 > /sys/bus/pci/drivers_probe
 *   ls /sys/bus/pci/devices/0000:06:00.0/mdev_supported_types
 *
 * There is room for four of the small type or two of the large one, of one type at a time. A mediated device has a
 * config space and nothing else, which is enough for QEMU to start with it. All end when the driver lets go.
 */
#include <linux/mdev.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/uaccess.h>
#include <linux/vfio.h>

#define VLAB_TYPES 2

struct vlab_parent {
	struct mdev_parent parent;
	struct mutex lock;
	struct mdev_type types[VLAB_TYPES];
	struct mdev_type *listed[VLAB_TYPES];
	unsigned int living[VLAB_TYPES];
};

struct vlab_slice {
	struct vfio_device vdev;
	u8 config[PCI_CFG_SPACE_SIZE];
};

static const struct {
	const char *id;
	const char *name;
	unsigned int room;
} vlab_types[VLAB_TYPES] = {
	{ "1", "LAB-1Q", 4 },
	{ "2", "LAB-2Q", 2 },
};

static struct vlab_parent *vlab_of(struct mdev_type *type)
{
	return container_of(type->parent, struct vlab_parent, parent);
}

/* How many more of the type fit beside those that live. */
static unsigned int vlab_room(struct vlab_parent *vlab, unsigned int number)
{
	unsigned int i;

	for (i = 0; i < VLAB_TYPES; i++)
		if (i != number && vlab->living[i])
			return 0;
	return vlab_types[number].room - vlab->living[number];
}

static ssize_t vlab_read(struct vfio_device *vdev, char __user *buffer, size_t count, loff_t *at)
{
	struct vlab_slice *slice = container_of(vdev, struct vlab_slice, vdev);
	loff_t offset = *at & (((u64)1 << 40) - 1);

	if (*at >> 40 != VFIO_PCI_CONFIG_REGION_INDEX || offset + count > sizeof(slice->config))
		return -EINVAL;
	if (copy_to_user(buffer, slice->config + offset, count))
		return -EFAULT;
	*at += count;
	return count;
}

/* Only the command register and the interrupt line stay written: there is no BAR. */
static ssize_t vlab_write(struct vfio_device *vdev, const char __user *buffer, size_t count, loff_t *at)
{
	struct vlab_slice *slice = container_of(vdev, struct vlab_slice, vdev);
	loff_t offset = *at & (((u64)1 << 40) - 1);

	if (*at >> 40 != VFIO_PCI_CONFIG_REGION_INDEX || offset + count > sizeof(slice->config))
		return -EINVAL;
	if ((offset == PCI_COMMAND && count <= 2) || (offset == PCI_INTERRUPT_LINE && count == 1))
		if (copy_from_user(slice->config + offset, buffer, count))
			return -EFAULT;
	*at += count;
	return count;
}

static long vlab_region_info(unsigned long arg)
{
	unsigned long size = offsetofend(struct vfio_region_info, offset);
	struct vfio_region_info info;

	if (copy_from_user(&info, (void __user *)arg, size))
		return -EFAULT;
	if (info.argsz < size || info.index >= VFIO_PCI_NUM_REGIONS)
		return -EINVAL;
	info.flags = 0;
	info.cap_offset = 0;
	info.size = 0;
	info.offset = (u64)info.index << 40;
	if (info.index == VFIO_PCI_CONFIG_REGION_INDEX) {
		info.flags = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;
		info.size = PCI_CFG_SPACE_SIZE;
	}
	return copy_to_user((void __user *)arg, &info, size) ? -EFAULT : 0;
}

static long vlab_ioctl(struct vfio_device *vdev, unsigned int command, unsigned long arg)
{
	struct vfio_device_info info;
	struct vfio_irq_info irq;
	unsigned long size;

	switch (command) {
	case VFIO_DEVICE_GET_INFO:
		size = offsetofend(struct vfio_device_info, num_irqs);
		if (copy_from_user(&info, (void __user *)arg, size))
			return -EFAULT;
		if (info.argsz < size)
			return -EINVAL;
		info.flags = VFIO_DEVICE_FLAGS_PCI | VFIO_DEVICE_FLAGS_RESET;
		info.num_regions = VFIO_PCI_NUM_REGIONS;
		info.num_irqs = VFIO_PCI_NUM_IRQS;
		return copy_to_user((void __user *)arg, &info, size) ? -EFAULT : 0;
	case VFIO_DEVICE_GET_REGION_INFO:
		return vlab_region_info(arg);
	case VFIO_DEVICE_GET_IRQ_INFO:
		size = offsetofend(struct vfio_irq_info, count);
		if (copy_from_user(&irq, (void __user *)arg, size))
			return -EFAULT;
		if (irq.argsz < size || irq.index >= VFIO_PCI_NUM_IRQS)
			return -EINVAL;
		irq.flags = 0;
		irq.count = 0;
		return copy_to_user((void __user *)arg, &irq, size) ? -EFAULT : 0;
	case VFIO_DEVICE_SET_IRQS:
	case VFIO_DEVICE_RESET:
		return 0;
	}
	return -ENOTTY;
}

static void vlab_release(struct vfio_device *vdev)
{
	vfio_free_device(vdev);
}

static const struct vfio_device_ops vlab_ops = {
	.name = "vlab_mdev",
	.release = vlab_release,
	.read = vlab_read,
	.write = vlab_write,
	.ioctl = vlab_ioctl,
};

static void vlab_fill(struct vlab_slice *slice)
{
	*(__le16 *)&slice->config[PCI_VENDOR_ID] = cpu_to_le16(0x1af4);
	*(__le16 *)&slice->config[PCI_DEVICE_ID] = cpu_to_le16(0x10f0);
	slice->config[PCI_CLASS_DEVICE + 1] = PCI_BASE_CLASS_DISPLAY;
	slice->config[PCI_CLASS_DEVICE] = 0x80;
	slice->config[PCI_HEADER_TYPE] = PCI_HEADER_TYPE_NORMAL;
}

static int vlab_slice_probe(struct mdev_device *mdev)
{
	struct vlab_parent *vlab = vlab_of(mdev->type);
	unsigned int number = mdev->type - vlab->types;
	struct vlab_slice *slice;
	int err = -ENOSPC;

	mutex_lock(&vlab->lock);
	if (!vlab_room(vlab, number))
		goto unlock;
	slice = vfio_alloc_device(vlab_slice, vdev, &mdev->dev, &vlab_ops);
	err = PTR_ERR_OR_ZERO(slice);
	if (err)
		goto unlock;
	vlab_fill(slice);
	err = vfio_register_emulated_iommu_dev(&slice->vdev);
	if (err) {
		vfio_put_device(&slice->vdev);
		goto unlock;
	}
	dev_set_drvdata(&mdev->dev, slice);
	vlab->living[number]++;
unlock:
	mutex_unlock(&vlab->lock);
	return err;
}

static void vlab_slice_remove(struct mdev_device *mdev)
{
	struct vlab_parent *vlab = vlab_of(mdev->type);
	struct vlab_slice *slice = dev_get_drvdata(&mdev->dev);

	vfio_unregister_group_dev(&slice->vdev);
	vfio_put_device(&slice->vdev);
	mutex_lock(&vlab->lock);
	vlab->living[mdev->type - vlab->types]--;
	mutex_unlock(&vlab->lock);
}

static unsigned int vlab_available(struct mdev_type *type)
{
	struct vlab_parent *vlab = vlab_of(type);
	unsigned int room;

	mutex_lock(&vlab->lock);
	room = vlab_room(vlab, type - vlab->types);
	mutex_unlock(&vlab->lock);
	return room;
}

static struct mdev_driver vlab_mdev_driver = {
	.device_api = VFIO_DEVICE_API_PCI_STRING,
	.driver = {
		.name = "vlab_slice",
		.owner = THIS_MODULE,
		.mod_name = KBUILD_MODNAME,
	},
	.probe = vlab_slice_probe,
	.remove = vlab_slice_remove,
	.get_available = vlab_available,
};

static int vlab_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct vlab_parent *vlab = devm_kzalloc(&pdev->dev, sizeof(*vlab), GFP_KERNEL);
	int i;

	if (!vlab)
		return -ENOMEM;
	mutex_init(&vlab->lock);
	for (i = 0; i < VLAB_TYPES; i++) {
		vlab->types[i].sysfs_name = vlab_types[i].id;
		vlab->types[i].pretty_name = vlab_types[i].name;
		vlab->listed[i] = &vlab->types[i];
	}
	pci_set_drvdata(pdev, vlab);
	return mdev_register_parent(&vlab->parent, &pdev->dev, &vlab_mdev_driver, vlab->listed, VLAB_TYPES);
}

static void vlab_remove(struct pci_dev *pdev)
{
	struct vlab_parent *vlab = pci_get_drvdata(pdev);

	mdev_unregister_parent(&vlab->parent);
}

static const struct pci_device_id vlab_table[] = { { } }; /* only through driver_override */

static struct pci_driver vlab_driver = {
	.name = "vlab_mdev",
	.id_table = vlab_table,
	.probe = vlab_probe,
	.remove = vlab_remove,
};

static int __init vlab_init(void)
{
	int err = mdev_register_driver(&vlab_mdev_driver);

	if (err)
		return err;
	err = pci_register_driver(&vlab_driver);
	if (err)
		mdev_unregister_driver(&vlab_mdev_driver);
	return err;
}

static void __exit vlab_exit(void)
{
	pci_unregister_driver(&vlab_driver);
	mdev_unregister_driver(&vlab_mdev_driver);
}

module_init(vlab_init);
module_exit(vlab_exit);

MODULE_DESCRIPTION("A PCI device of the lab that is cut into mediated devices");
MODULE_LICENSE("GPL");
