//! Event types by number and name (PC Client Platform Firmware Profile §10.4.1). A type is a statement of the log's
//! author: it is not extended.

macro_rules! event_types {
    ($($(#[$doc:meta])* $name:ident = $value:literal;)*) => {
        $($(#[$doc])* pub const $name: u32 = $value;)*

        /// Name of an event type (PC Client Platform Firmware Profile §10.4.1); `None` for one that it does not name.
        #[must_use]
        pub const fn event_type_name(event_type: u32) -> Option<&'static str> {
            match event_type {
                $($name => Some(stringify!($name)),)*
                _ => None,
            }
        }
    };
}

event_types! {
    /// EV_PREBOOT_CERT: reserved.
    EV_PREBOOT_CERT = 0x0000_0000;
    /// EV_POST_CODE: firmware code or data, often named by a word.
    EV_POST_CODE = 0x0000_0001;
    /// EV_UNUSED.
    EV_UNUSED = 0x0000_0002;
    /// EV_NO_ACTION: tells something, extends nothing.
    EV_NO_ACTION = 0x0000_0003;
    /// EV_SEPARATOR: end of the firmware's own measurements in a PCR.
    EV_SEPARATOR = 0x0000_0004;
    /// EV_ACTION: a string that says what was done.
    EV_ACTION = 0x0000_0005;
    /// EV_EVENT_TAG: tagged events, used by Linux's EFI stub and by systemd's.
    EV_EVENT_TAG = 0x0000_0006;
    /// EV_S_CRTM_CONTENTS: the static root of trust for measurement itself.
    EV_S_CRTM_CONTENTS = 0x0000_0007;
    /// EV_S_CRTM_VERSION: its version, as a string or number.
    EV_S_CRTM_VERSION = 0x0000_0008;
    /// EV_CPU_MICROCODE.
    EV_CPU_MICROCODE = 0x0000_0009;
    /// EV_PLATFORM_CONFIG_FLAGS.
    EV_PLATFORM_CONFIG_FLAGS = 0x0000_000A;
    /// EV_TABLE_OF_DEVICES.
    EV_TABLE_OF_DEVICES = 0x0000_000B;
    /// EV_COMPACT_HASH: the data is what the caller of the TPM driver chose.
    EV_COMPACT_HASH = 0x0000_000C;
    /// EV_IPL: boot loaders' measurements.
    EV_IPL = 0x0000_000D;
    /// EV_IPL_PARTITION_DATA.
    EV_IPL_PARTITION_DATA = 0x0000_000E;
    /// EV_NONHOST_CODE: code of a processor beside the host's.
    EV_NONHOST_CODE = 0x0000_000F;
    /// EV_NONHOST_CONFIG.
    EV_NONHOST_CONFIG = 0x0000_0010;
    /// EV_NONHOST_INFO.
    EV_NONHOST_INFO = 0x0000_0011;
    /// EV_OMIT_BOOT_DEVICE_EVENTS: the firmware was told to leave boot devices out.
    EV_OMIT_BOOT_DEVICE_EVENTS = 0x0000_0012;
    /// EV_POST_CODE2: as EV_POST_CODE, with a UEFI_PLATFORM_FIRMWARE_BLOB2.
    EV_POST_CODE2 = 0x0000_0013;
    /// EV_EFI_EVENT_BASE: no event has it.
    EV_EFI_EVENT_BASE = 0x8000_0000;
    /// EV_EFI_VARIABLE_DRIVER_CONFIG: Secure Boot's variables.
    EV_EFI_VARIABLE_DRIVER_CONFIG = 0x8000_0001;
    /// EV_EFI_VARIABLE_BOOT: boot order and options; the digest is over the variable's data only.
    EV_EFI_VARIABLE_BOOT = 0x8000_0002;
    /// EV_EFI_BOOT_SERVICES_APPLICATION: a loaded EFI program.
    EV_EFI_BOOT_SERVICES_APPLICATION = 0x8000_0003;
    /// EV_EFI_BOOT_SERVICES_DRIVER: a loaded EFI driver, option ROMs included.
    EV_EFI_BOOT_SERVICES_DRIVER = 0x8000_0004;
    /// EV_EFI_RUNTIME_SERVICES_DRIVER.
    EV_EFI_RUNTIME_SERVICES_DRIVER = 0x8000_0005;
    /// EV_EFI_GPT_EVENT: the partition table of the boot disk.
    EV_EFI_GPT_EVENT = 0x8000_0006;
    /// EV_EFI_ACTION: a string that says what was done.
    EV_EFI_ACTION = 0x8000_0007;
    /// EV_EFI_PLATFORM_FIRMWARE_BLOB: the digest is over the blob, the data says where it is.
    EV_EFI_PLATFORM_FIRMWARE_BLOB = 0x8000_0008;
    /// EV_EFI_HANDOFF_TABLES: the digest is over the tables, the data says which and where.
    EV_EFI_HANDOFF_TABLES = 0x8000_0009;
    /// EV_EFI_PLATFORM_FIRMWARE_BLOB2: with a description.
    EV_EFI_PLATFORM_FIRMWARE_BLOB2 = 0x8000_000A;
    /// EV_EFI_HANDOFF_TABLES2: with a description.
    EV_EFI_HANDOFF_TABLES2 = 0x8000_000B;
    /// EV_EFI_VARIABLE_BOOT2: as EV_EFI_VARIABLE_BOOT, with the digest over name and data.
    EV_EFI_VARIABLE_BOOT2 = 0x8000_000C;
    /// EV_EFI_GPT_EVENT2: with identifiers of one disk left out.
    EV_EFI_GPT_EVENT2 = 0x8000_000D;
    /// EV_EFI_HCRTM_EVENT: PCR 0 began with an H-CRTM (TPM 2.0 Part 1 §34.3).
    EV_EFI_HCRTM_EVENT = 0x8000_0010;
    /// EV_EFI_VARIABLE_AUTHORITY: what a Secure Boot check relied on.
    EV_EFI_VARIABLE_AUTHORITY = 0x8000_00E0;
    /// EV_EFI_SPDM_FIRMWARE_BLOB: firmware of a device, as the device measured it.
    EV_EFI_SPDM_FIRMWARE_BLOB = 0x8000_00E1;
    /// EV_EFI_SPDM_FIRMWARE_CONFIG.
    EV_EFI_SPDM_FIRMWARE_CONFIG = 0x8000_00E2;
    /// EV_EFI_SPDM_DEVICE_POLICY: the variables that devices are authenticated by.
    EV_EFI_SPDM_DEVICE_POLICY = 0x8000_00E3;
    /// EV_EFI_SPDM_DEVICE_AUTHORITY: what a device's authentication relied on.
    EV_EFI_SPDM_DEVICE_AUTHORITY = 0x8000_00E4;
}
