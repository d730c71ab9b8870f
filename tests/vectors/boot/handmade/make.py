#!/usr/bin/env python3
"""Writes the handmade boot logs: eventlog.bin and, computed here and nowhere else, the PCRs it leads to (pcrs.json).

Run in this folder; the files are the same each time. What each log is made after stands in ../README.md.
"""
import hashlib
import json
import os
import struct
import uuid

IDS = {"sha1": 0x0004, "sha256": 0x000B, "sha384": 0x000C, "sha512": 0x000D, "sm3_256": 0x0012}
POST_CODE, NO_ACTION, SEPARATOR, ACTION, TAG, CRTM_CONTENTS, CRTM_VERSION = 1, 3, 4, 5, 6, 7, 8
CONFIG_FLAGS, TABLE_OF_DEVICES, COMPACT_HASH, IPL, NONHOST_INFO, OMIT, POST_CODE2 = 0xA, 0xB, 0xC, 0xD, 0x11, 0x12, 0x13
EFI = 0x80000000
(DRIVER_CONFIG, VARIABLE_BOOT, APPLICATION, DRIVER, GPT, EFI_ACTION, BLOB, TABLES, BLOB2, TABLES2, BOOT2, GPT2) = (
    EFI + n for n in (1, 2, 3, 4, 6, 7, 8, 9, 0xA, 0xB, 0xC, 0xD)
)
HCRTM, AUTHORITY, SPDM_BLOB, SPDM_POLICY = EFI + 0x10, EFI + 0xE0, EFI + 0xE1, EFI + 0xE3
GLOBAL = uuid.UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c").bytes_le
SECURITY = uuid.UUID("d719b2cb-3d3a-4596-a3bc-dad00e67656f").bytes_le
SHIM = uuid.UUID("605dab50-e046-4300-abb6-3dd810dd8b23").bytes_le
CERT_SHA256 = uuid.UUID("c1c41626-504c-4092-aca9-41f936934328").bytes_le
CERT_X509 = uuid.UUID("a5c059a1-94e4-4aa7-87b5-ab155c2bf072").bytes_le
OWNER = uuid.UUID("77fa9abd-0359-4d32-bd60-28f4e78f784b").bytes_le
END = bytes([0x7F, 0xFF, 4, 0])


def wide(text):
    return text.encode("utf-16-le")


def variable(vendor, name, data):
    return vendor + struct.pack("<QQ", len(name), len(data)) + wide(name) + data


def signatures(kind, entries, header=b""):
    size = 16 + len(entries[0])
    body = header + b"".join(OWNER + entry for entry in entries)
    return kind + struct.pack("<III", 28 + len(body), len(header), size) + body


def node(kind, subtype, body):
    return bytes([kind, subtype]) + struct.pack("<H", 4 + len(body)) + body


def image(path, address=0x40000000, length=0x1000):
    return struct.pack("<QQQQ", address, length, 0, len(path)) + path


def gpt(disk, partitions):
    header = b"EFI PART" + struct.pack("<IIIIQQQQ", 0x10000, 92, 0, 0, 1, 0xFFFF, 34, 0xFFDE)
    header += uuid.UUID(disk).bytes_le + struct.pack("<QIII", 2, 128, 128, 0)
    entries = b"".join(
        uuid.UUID(kind).bytes_le + uuid.UUID(unique).bytes_le + struct.pack("<QQQ", first, last, 0) + wide(name).ljust(72, b"\0")
        for kind, unique, first, last, name in partitions
    )
    return header + struct.pack("<Q", len(partitions)) + entries


class Log:
    """A log of the profile's format, and the PCRs that it leads to."""

    def __init__(self, *banks, sizes=None):
        self.banks = banks
        self.pcrs = {bank: {} for bank in banks if bank != "sm3_256"}
        self.start = 0
        sizes = sizes or {bank: 32 if bank == "sm3_256" else hashlib.new(bank).digest_size for bank in banks}
        data = b"Spec ID Event03\0" + struct.pack("<IBBBBI", 0, 0, 2, 0, 2, len(banks))
        data += b"".join(struct.pack("<HH", IDS[bank], sizes[bank]) for bank in banks) + b"\0"
        self.bytes = struct.pack("<II20sI", 0, NO_ACTION, b"", len(data)) + data

    def add(self, pcr, kind, data, measured=None, extends=True):
        measured = data if measured is None else measured
        self.bytes += struct.pack("<III", pcr, kind, len(self.banks))
        for bank in self.banks:
            # SM3 is not to be had everywhere: its digests are made up, and its PCRs left out.
            digest = b"\x5a" * 32 if bank == "sm3_256" else hashlib.new(bank, measured).digest()
            digest = digest if extends else bytes(len(digest))
            self.bytes += struct.pack("<H", IDS[bank]) + digest
            if extends and bank in self.pcrs:
                start = bytes(len(digest) - 1) + bytes([self.start if pcr == 0 else 0])
                old = self.pcrs[bank].get(str(pcr), start.hex())
                self.pcrs[bank][str(pcr)] = hashlib.new(bank, bytes.fromhex(old) + digest).hexdigest()
        self.bytes += struct.pack("<I", len(data)) + data

    def no_action(self, data, pcr=0):
        self.add(pcr, NO_ACTION, data, extends=False)

    def locality(self, locality):
        self.no_action(b"StartupLocality\0" + bytes([locality]))
        self.start = locality

    def separators(self, value=0, pcrs=range(8)):
        for pcr in pcrs:
            self.add(pcr, SEPARATOR, struct.pack("<I", value))


def write(name, log, padding=b""):
    os.makedirs(name, exist_ok=True)
    with open(f"{name}/eventlog.bin", "wb") as file:
        file.write(log.bytes + padding)
    with open(f"{name}/pcrs.json", "w") as file:
        json.dump({"pcrs": log.pcrs}, file, indent=1, sort_keys=True)
        file.write("\n")


def u_boot():
    log = Log("sha1", "sha256", "sha384", "sha512")
    log.add(0, CRTM_VERSION, b"U-Boot 2024.10 (Oct 07 2024 - 14:54:35 +0000)\0")
    log.add(8, COMPACT_HASH, b"linux\0", b"a kernel\n")
    log.add(9, COMPACT_HASH, b"initrd\0", b"an initrd\n")
    log.add(1, TABLE_OF_DEVICES, b"dts\0", b"a device tree\n")
    log.add(1, CONFIG_FLAGS, b"console=ttyAMA0 root=/dev/mmcblk0p2 ro\0")
    log.separators(0xFFFFFFFF)
    # The rest of the log area that the device tree reserves.
    write("u-boot", log, bytes(512))


def u_boot_efi():
    log = Log("sha256")
    log.add(0, CRTM_VERSION, b"U-Boot 2024.10 (Oct 07 2024 - 14:54:35 +0000)\0")
    certificate = b"0\x82\x01\x00 not really a certificate"
    for vendor, name, data in [
        (GLOBAL, "SecureBoot", b"\1"),
        (GLOBAL, "PK", signatures(CERT_X509, [certificate])),
        (GLOBAL, "KEK", signatures(CERT_X509, [certificate]) + signatures(CERT_X509, [certificate + b" 2"])),
        (SECURITY, "db", signatures(CERT_X509, [certificate]) + signatures(CERT_SHA256, [b"\1" * 32, b"\2" * 32])),
        (SECURITY, "dbx", signatures(CERT_SHA256, [bytes([n]) * 32 for n in range(20)])),
        (GLOBAL, "DeployedMode", b"\1"),
        (GLOBAL, "AuditMode", b"\0"),
    ]:
        log.add(7, DRIVER_CONFIG, variable(vendor, name, data))
    log.separators(0, [7])
    # U-Boot puts the SMBIOS structures where other firmware puts their address.
    smbios = uuid.UUID("eb9d2d31-2d88-11d3-9a16-0090273fc14d").bytes_le + b"SMBIOS structures, longer than a pointer"
    log.add(1, TABLES2, bytes([12]) + b"SmbiosTable\0" + struct.pack("<Q", 1) + smbios)
    disk = node(4, 1, struct.pack("<IQQ", 1, 0x800, 0x80000) + uuid.UUID("23cd39d1-42f9-4f6b-8991-3e9a03260b08").bytes_le + b"\2\2")
    path = disk + node(4, 4, wide("\\EFI\\BOOT\\BOOTAA64.EFI\0")) + END
    option = struct.pack("<IH", 1, len(path)) + wide("mmc 0\0") + path
    log.add(1, BOOT2, variable(GLOBAL, "BootOrder", struct.pack("<HH", 0, 2)))
    log.add(1, BOOT2, variable(GLOBAL, "Boot0000", option))
    log.add(4, EFI_ACTION, b"Calling EFI Application from Boot Option")
    log.separators(0, range(7))
    table = gpt(
        "b774dd3a-e91f-4c01-afee-1957a0ac8325",
        [
            ("c12a7328-f81f-11d2-ba4b-00a0c93ec93b", "23cd39d1-42f9-4f6b-8991-3e9a03260b08", 2048, 526335, "boot"),
            ("0fc63daf-8483-4772-8e79-3d69d8477de4", "9530ffcc-a22a-44ee-b9e1-0490d995e12c", 526336, 1048575, "root"),
        ],
    )
    log.add(5, GPT, table)
    log.add(7, AUTHORITY, variable(SECURITY, "db", OWNER + certificate))
    log.add(4, APPLICATION, image(node(1, 4, GLOBAL) + path), b"an EFI program\n")
    log.add(9, TAG, struct.pack("<II", 0x8F3B22EC, 13) + b"Linux initrd\0", b"an initrd\n")
    log.add(9, TAG, struct.pack("<II", 0x8F3B22ED, 26) + b"LOADED_IMAGE::LoadOptions\0", wide("root=/dev/mmcblk0p2 ro\0"))
    log.add(5, EFI_ACTION, b"Exit Boot Services Invocation")
    log.add(5, EFI_ACTION, b"Exit Boot Services Returned with Success")
    write("u-boot-efi", log)


def tf_a():
    log = Log("sha256")
    log.locality(0)
    for name in ["FW_CONFIG", "TB_FW_CONFIG", "BL_2", "SECURE_RT_EL3", "HW_CONFIG", "SOC_FW_CONFIG", "NT_FW_CONFIG", "BL_33"]:
        log.add(0, POST_CODE, name.encode() + b"\0", f"image {name}\n".encode())
    for name in ["SECURE_RT_EL1_OPTEE", "SECURE_RT_EL1_OPTEE_EXTRA1", "TOS_FW_CONFIG"]:
        log.add(0, POST_CODE, name.encode() + b"\0", f"image {name}\n".encode())
    write("tf-a", log)


def shim_grub():
    log = Log("sha1", "sha256", "sha384", "sm3_256")
    log.locality(3)
    log.add(0, CRTM_CONTENTS, b"Boot Guard Measured S-CRTM\0", b"an ACM\n")
    log.add(0, CRTM_VERSION, wide("N40ET41W\0"))
    log.add(0, BLOB2, bytes([5]) + b"POST\0" + struct.pack("<QQ", 0xFFC00000, 0x400000), b"firmware\n")
    log.add(0, POST_CODE, b"ACPI DATA", b"tables\n")
    log.add(7, DRIVER_CONFIG, variable(GLOBAL, "SecureBoot", b"\0"))
    for name in ["PK", "KEK"]:
        log.add(7, DRIVER_CONFIG, variable(GLOBAL, name, b""))
    for name in ["db", "dbx"]:
        log.add(7, DRIVER_CONFIG, variable(SECURITY, name, b""))
    log.separators(0, [7])
    rom = node(2, 1, struct.pack("<II", 0x0A0341D0, 0)) + node(1, 1, b"\0\1") + node(4, 8, struct.pack("<IQQ", 0, 0xF250, 0x201FF))
    log.add(2, DRIVER, image(rom + END), b"an option ROM\n")
    order = struct.pack("<HH", 1, 0)
    log.add(1, VARIABLE_BOOT, variable(GLOBAL, "BootOrder", order), order)
    log.add(1, TABLES, struct.pack("<Q", 1) + uuid.UUID("f2fd1544-9794-4a2c-992e-e5bbcf20e394").bytes_le + struct.pack("<Q", 0x7A000000), b"SMBIOS\n")
    log.add(1, CONFIG_FLAGS, b"FeatureTME=0\0")
    log.separators(0, range(7))
    nvme = node(2, 1, struct.pack("<II", 0x0A0341D0, 0)) + node(1, 1, b"\0\6") + node(3, 23, struct.pack("<I", 1) + bytes.fromhex("002538b221d13750"))
    log.add(4, APPLICATION, image(nvme + node(4, 4, wide("\\EFI\\debian\\shimx64.efi\0")) + END), b"shim\n")
    log.add(14, IPL, b"MokList\0", signatures(CERT_X509, [b"a certificate"]))
    log.add(14, IPL, b"MokListX\0", signatures(CERT_SHA256, [b"\3" * 32]))
    log.add(7, AUTHORITY, variable(SHIM, "SbatLevel", b"sbat,1,2021030218\n"))
    log.add(14, IPL, b"MokListTrusted\0", b"\1")
    log.add(7, AUTHORITY, variable(SHIM, "Shim", b"a certificate of the distribution") + b"\0" * 5 + b"\xaf",
            variable(SHIM, "Shim", b"a certificate of the distribution") + b"\0" * 5)
    log.add(4, APPLICATION, image(node(4, 4, wide("\\EFI\\debian\\grubx64.efi\0")) + END), b"GRUB\n")
    log.add(9, IPL, b"(hd0,gpt1)/EFI/debian/grub.cfg\0", b"set root=hd0\n")
    log.add(8, IPL, b"grub_cmd: linux /vmlinuz root=/dev/sda2 ro quiet\0", b"linux /vmlinuz root=/dev/sda2 ro quiet")
    log.add(9, IPL, b"/vmlinuz\0", b"a kernel\n")
    log.add(8, IPL, b"kernel_cmdline: /vmlinuz root=/dev/sda2 ro quiet\0", b"/vmlinuz root=/dev/sda2 ro quiet")
    log.add(8, IPL, b"module_cmdline: --nounzip\0", b"--nounzip")
    log.add(9, IPL, b"/initrd.img\0", b"an initrd\n")
    log.add(9, TAG, struct.pack("<II", 0x8F3B22ED, 26) + b"LOADED_IMAGE::LoadOptions\0", wide("BOOT_IMAGE=/vmlinuz root=/dev/sda2 ro quiet\0"))
    log.add(5, EFI_ACTION, b"Exit Boot Services Invocation")
    log.add(5, EFI_ACTION, b"Exit Boot Services Returned with Success")
    write("shim-grub", log)


def systemd_boot():
    log = Log("sha256")
    log.add(0, CRTM_VERSION, b"\0\0")
    log.separators(0, range(8))
    log.add(5, TAG, struct.pack("<II", 0xF5BC582A, 24) + wide("loader.conf\0"), b"timeout 3\n")
    log.add(4, APPLICATION, image(node(4, 6, GLOBAL) + node(4, 4, wide("\\EFI\\Linux\\uki.efi\0")) + END), b"a UKI\n")
    for name, content in [(".linux", b"a kernel"), (".cmdline", b"root=/dev/sda2 ro\0"), (".initrd", b"an initrd")]:
        log.add(11, IPL, wide(name + "\0"), name.encode() + b"\0")
        log.add(11, IPL, wide(name + "\0"), content)
    log.add(12, IPL, wide("root=/dev/sda2 rw systemd.debug_shell\0"))
    log.add(12, IPL, wide("Credentials initrd\0"), b"credentials\n")
    log.add(12, TAG, struct.pack("<II", 0x6C46F751, 20) + wide("board.dtb\0"), b"a device tree\n")
    log.add(13, IPL, wide("System extension initrd\0"), b"extensions\n")
    # Older versions, which cut the text's NUL in two.
    log.add(8, IPL, wide("initrd=\\initrd.img root=/dev/sda2 rw\0")[:-1], wide("initrd=\\initrd.img root=/dev/sda2 rw\0"))
    log.add(9, TAG, struct.pack("<II", 0x8F3B22ED, 26) + b"LOADED_IMAGE::LoadOptions\0", wide("root=/dev/sda2 ro\0"))
    log.add(9, TAG, struct.pack("<II", 0x8F3B22EC, 13) + b"Linux initrd\0", b"an initrd\n")
    write("systemd-boot", log)


def profile_1_06():
    log = Log("sha384", "sha256")
    # What an H-CRTM measured comes first; PCR 0 then began with 4.
    log.start = 4
    log.add(0, HCRTM, b"HCRTM", b"an H-CRTM\n")
    log.no_action(b"StartupLocality\0\4")
    log.no_action(b"SP800-155 Event3" + struct.pack("<I", 0) + OWNER + b"\0", pcr=0xFFFFFFFF)
    log.no_action(b"NvIndexInstance\0" + struct.pack("<H6x", 1) + b"SPDM Device Sec2" + struct.pack("<H", 2), pcr=6)
    log.add(0, CRTM_CONTENTS, bytes([6]) + b"S-CRTM" + struct.pack("<QQ", 0xFFFF0000, 0x10000), b"an S-CRTM\n")
    log.add(0, POST_CODE2, bytes([9]) + b"BIOS code" + struct.pack("<QQ", 0xFF000000, 0xF0000), b"firmware\n")
    log.add(0, NONHOST_INFO, b"GCE NonHostInfo\0" + b"\1" + bytes(15))
    log.add(2, SPDM_BLOB, b"SPDM Device Sec2" + struct.pack("<HBBI", 2, 0, 0, 4) + b"\1\2\3\4")
    log.add(7, SPDM_POLICY, variable(SECURITY, "devdb", signatures(CERT_X509, [b"a certificate"])))
    log.add(5, GPT2, gpt("00000000-0000-0000-0000-000000000000", []))
    log.add(4, EFI_ACTION, b"Calling EFI Application from Boot Option")
    log.add(4, OMIT, b"BOOT ATTEMPTS OMITTED")
    log.add(7, EFI_ACTION, b"UEFI Debug Mode")
    log.separators(0, [1, 2, 3, 4, 5, 6, 7])
    # The firmware met an error: the digest is that of 1, the data tells about it.
    log.add(0, SEPARATOR, b"fan failure", struct.pack("<I", 1))
    write("profile-1.06", log)


class OldLog(Log):
    """TCG_PCR_EVENT throughout: SHA-1 only."""

    def __init__(self):
        self.banks, self.pcrs, self.start, self.bytes = ("sha1",), {"sha1": {}}, 0, b""

    def add(self, pcr, kind, data, measured=None, extends=True):
        crypto_agile, self.bytes = self.bytes, b""
        super().add(pcr, kind, data, measured, extends)
        digest = self.bytes[14:34]
        self.bytes = crypto_agile + struct.pack("<II", pcr, kind) + digest + struct.pack("<I", len(data)) + data


def sha1_bios():
    log = OldLog()
    log.no_action(b"Spec ID Event00\0" + struct.pack("<IBBBBB", 0, 2, 1, 2, 0, 0))
    log.add(0, CRTM_CONTENTS, b"S-CRTM\0", b"an S-CRTM\n")
    log.add(7, DRIVER_CONFIG, variable(GLOBAL, "SecureBoot", b"\1"), b"\1")
    log.add(4, ACTION, b"Calling INT 19h")
    log.separators(0xFFFFFFFF)
    log.add(4, ACTION, b"Booting BCV Device 80h, - HDD")
    log.add(4, IPL, b"MBR", b"a boot sector\n")
    write("sha1-bios", log, b"\xff" * 256)


def coreboot():
    entries = [
        (2, "sha256", "FMAP: BOOTBLOCK"),
        (2, "sha256", "CBFS: fallback/romstage"),
        (3, "sha256", "CBFS: config"),
        (0, "sha1", "VBOOT: boot mode"),
        (1, "sha256", "VBOOT: GBB HWID"),
        (2, "sha256", "CBFS: fallback/payload"),
    ]
    pcrs, body = {"sha1": {}, "sha256": {}}, b""
    for pcr, bank, name in entries:
        digest = hashlib.new(bank, name.encode()).digest()
        body += struct.pack("<I10s64sI50s", pcr, bank.upper().encode(), digest, len(digest), name.encode())
        old = bytes.fromhex(pcrs[bank].get(str(pcr), bytes(len(digest)).hex()))
        pcrs[bank][str(pcr)] = hashlib.new(bank, old + digest).hexdigest()
    log = OldLog()
    log.bytes, log.pcrs = struct.pack("<HH", 8, len(entries)) + body, pcrs
    write("coreboot", log, bytes(2 * 132))


for make in (u_boot, u_boot_efi, tf_a, shim_grub, systemd_boot, profile_1_06, sha1_bios, coreboot):
    make()
