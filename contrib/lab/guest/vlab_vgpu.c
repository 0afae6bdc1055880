// SPDX-License-Identifier: Apache-2.0 OR GPL-2.0
/*
 * A driver for virtual functions that gives them to guests itself, as NVIDIA's does with vGPUs since Linux 6.8:
 *
 *   modprobe vlab_vgpu
 *   echo vlab_vgpu > /sys/bus/pci/devices/0000:03:00.1/driver_override
 *   echo 0000:03:00.1 > /sys/bus/pci/drivers_probe
 *   echo 1155 > /sys/bus/pci/devices/0000:03:00.1/nvidia/current_vgpu_type
 *
 * A function has a vGPU once its type is written, and none when that is 0. Only one with a vGPU can be opened. The
 * type belongs to the driver: a function that leaves it has lost its vGPU.
 */
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/vfio.h>
#include <linux/vfio_pci_core.h>

struct vlab_vgpu {
	struct vfio_pci_core_device core;
	struct mutex lock;
	unsigned int type;
	bool open;
};

static const struct {
	unsigned int id;
	const char *name;
} vlab_types[] = {
	{ 1145, "NVIDIA L40S-1B" },
	{ 1155, "NVIDIA L40S-4Q" },
	{ 1157, "NVIDIA L40S-8Q" },
};

static struct vlab_vgpu *vlab_of(struct device *dev)
{
	struct vfio_pci_core_device *core = dev_get_drvdata(dev);

	return container_of(core, struct vlab_vgpu, core);
}

static bool vlab_is_type(unsigned int id)
{
	int i;

	for (i = 0; i < ARRAY_SIZE(vlab_types); i++)
		if (vlab_types[i].id == id)
			return true;
	return id == 0;
}

static ssize_t creatable_vgpu_types_show(struct device *dev, struct device_attribute *attr, char *text)
{
	int i, length = sysfs_emit(text, "ID    : vGPU Name\n");

	if (vlab_of(dev)->type)
		return length;
	for (i = 0; i < ARRAY_SIZE(vlab_types); i++)
		length += sysfs_emit_at(text, length, "%-6u: %s\n", vlab_types[i].id, vlab_types[i].name);
	return length;
}
static DEVICE_ATTR_RO(creatable_vgpu_types);

static ssize_t current_vgpu_type_show(struct device *dev, struct device_attribute *attr, char *text)
{
	return sysfs_emit(text, "%u\n", vlab_of(dev)->type);
}

static ssize_t current_vgpu_type_store(struct device *dev, struct device_attribute *attr, const char *text,
				       size_t length)
{
	struct vlab_vgpu *vgpu = vlab_of(dev);
	unsigned int type;
	int err = kstrtouint(text, 0, &type);

	if (err)
		return err;
	if (!vlab_is_type(type))
		return -EINVAL;
	mutex_lock(&vgpu->lock);
	if (vgpu->open || (type && vgpu->type))
		err = -EBUSY;
	else
		vgpu->type = type;
	mutex_unlock(&vgpu->lock);
	return err ? err : length;
}
static DEVICE_ATTR_RW(current_vgpu_type);

static struct attribute *vlab_attributes[] = {
	&dev_attr_creatable_vgpu_types.attr,
	&dev_attr_current_vgpu_type.attr,
	NULL
};

static const struct attribute_group vlab_group = {
	.name = "nvidia",
	.attrs = vlab_attributes,
};

static const struct attribute_group *vlab_groups[] = { &vlab_group, NULL };

static int vlab_open(struct vfio_device *vdev)
{
	struct vlab_vgpu *vgpu = container_of(vdev, struct vlab_vgpu, core.vdev);
	int err = -EINVAL;

	mutex_lock(&vgpu->lock);
	if (vgpu->type)
		err = vfio_pci_core_enable(&vgpu->core);
	vgpu->open = !err;
	mutex_unlock(&vgpu->lock);
	if (!err)
		vfio_pci_core_finish_enable(&vgpu->core);
	return err;
}

static void vlab_close(struct vfio_device *vdev)
{
	struct vlab_vgpu *vgpu = container_of(vdev, struct vlab_vgpu, core.vdev);

	vfio_pci_core_close_device(vdev);
	mutex_lock(&vgpu->lock);
	vgpu->open = false;
	mutex_unlock(&vgpu->lock);
}

static const struct vfio_device_ops vlab_ops = {
	.name = "vlab_vgpu",
	.init = vfio_pci_core_init_dev,
	.release = vfio_pci_core_release_dev,
	.open_device = vlab_open,
	.close_device = vlab_close,
	.ioctl = vfio_pci_core_ioctl,
	.device_feature = vfio_pci_core_ioctl_feature,
	.read = vfio_pci_core_read,
	.write = vfio_pci_core_write,
	.mmap = vfio_pci_core_mmap,
	.request = vfio_pci_core_request,
	.match = vfio_pci_core_match,
};

static int vlab_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct vlab_vgpu *vgpu;
	int err;

	if (!pdev->is_virtfn)
		return -ENODEV;
	vgpu = vfio_alloc_device(vlab_vgpu, core.vdev, &pdev->dev, &vlab_ops);
	if (IS_ERR(vgpu))
		return PTR_ERR(vgpu);
	mutex_init(&vgpu->lock);
	dev_set_drvdata(&pdev->dev, &vgpu->core);
	err = vfio_pci_core_register_device(&vgpu->core);
	if (err)
		vfio_put_device(&vgpu->core.vdev);
	return err;
}

static void vlab_remove(struct pci_dev *pdev)
{
	struct vlab_vgpu *vgpu = vlab_of(&pdev->dev);

	vfio_pci_core_unregister_device(&vgpu->core);
	vfio_put_device(&vgpu->core.vdev);
}

static const struct pci_device_id vlab_table[] = { { } }; /* only through driver_override */

static struct pci_driver vlab_driver = {
	.name = "vlab_vgpu",
	.id_table = vlab_table,
	.probe = vlab_probe,
	.remove = vlab_remove,
	.dev_groups = vlab_groups,
	.driver_managed_dma = true,
};
module_pci_driver(vlab_driver);

MODULE_DESCRIPTION("Virtual functions of the lab whose driver is their VFIO provider");
MODULE_LICENSE("GPL");
