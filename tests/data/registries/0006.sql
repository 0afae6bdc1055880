-- Schema 0006 (sqlite3 .dump of the registry in 0005.sql after its upgrade).
BEGIN TRANSACTION;
CREATE TABLE alembic_version (
	version_num VARCHAR(32) NOT NULL, 
	CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
INSERT INTO "alembic_version" VALUES('0006');
CREATE TABLE boot_rules (
	host TEXT NOT NULL, 
	device VARCHAR(36) NOT NULL, 
	vendor_id VARCHAR(4) NOT NULL, 
	device_id VARCHAR(4) NOT NULL, 
	topology TEXT, 
	virtual_functions INTEGER, 
	autoprobe BOOLEAN NOT NULL, 
	PRIMARY KEY (host, device)
);
CREATE TABLE host_drivers (
	host TEXT NOT NULL, 
	device VARCHAR(36) NOT NULL, 
	driver TEXT, 
	PRIMARY KEY (host, device)
);
INSERT INTO "host_drivers" VALUES('2f1c5a3e-8f7e-4a53-9f3c-0d6c7f6b7a10','0000:a2:00.0','nvidia');
INSERT INTO "host_drivers" VALUES('2f1c5a3e-8f7e-4a53-9f3c-0d6c7f6b7a10','0000:00:02.0',NULL);
CREATE TABLE quarantines (
	host TEXT NOT NULL, 
	device VARCHAR(36) NOT NULL, 
	reason TEXT NOT NULL, 
	since DATETIME NOT NULL, 
	after_use BOOLEAN NOT NULL, 
	PRIMARY KEY (host, device)
);
CREATE TABLE "registrations" (
	id VARCHAR(64) NOT NULL, 
	host TEXT NOT NULL, 
	device VARCHAR(36) NOT NULL, 
	name VARCHAR(128) NOT NULL, 
	created_at DATETIME NOT NULL, 
	created_by TEXT, 
	vendor_id VARCHAR(4) NOT NULL, 
	device_id VARCHAR(4) NOT NULL, 
	class_code INTEGER, 
	serial TEXT, 
	iommu_group INTEGER, 
	host_driver TEXT, 
	tags JSON NOT NULL, 
	fingerprint JSON, 
	moved_from VARCHAR(36), 
	displaced VARCHAR(64) DEFAULT ('') NOT NULL, vgpu JSON, require_clean BOOLEAN DEFAULT 0 NOT NULL, 
	PRIMARY KEY (id), 
	CONSTRAINT one_registration_per_name UNIQUE (host, name), 
	CONSTRAINT one_registration_per_device UNIQUE (host, device, displaced)
);
INSERT INTO "registrations" VALUES('tz4a98xxat96iws9zmbrgj3a','2f1c5a3e-8f7e-4a53-9f3c-0d6c7f6b7a10','0000:a2:00.0','l4-gpu','2025-01-15 10:00:00.000000','alice','10de','27b8',197120,'1562423000123',82,'nvidia','{"team": "ml", "env": "prod"}',NULL,NULL,'',NULL,0);
INSERT INTO "registrations" VALUES('id1','2f1c5a3e-8f7e-4a53-9f3c-0d6c7f6b7a10','0000:00:01.0','name-1','2025-01-15 10:00:00.000000',NULL,'10de','27b8',NULL,NULL,NULL,NULL,'{}',NULL,NULL,'',NULL,0);
COMMIT;
