//! What events say, and how far their digests prove it.

use super::*;
use crate::pcr::{HashAlgorithm, sha256, sha256_of};

/// A log of one event, whose SHA-256 digest is that of `measured`.
fn log(pcr: u32, event_type: u32, data: &[u8], measured: &[u8]) -> Vec<u8> {
    [header(&[SHA256]), agile(pcr, event_type, &[(0xB, &sha256(measured))], data)].concat()
}

fn event(log: &[u8]) -> Event<'_> {
    EventLog::read(log).unwrap().events().nth(1).unwrap().unwrap()
}

fn shown(event_type: u32, data: &[u8]) -> String {
    event(&log(0, event_type, data, data)).content().to_string()
}

fn proof(event_type: u32, data: &[u8], measured: &[u8]) -> Proof {
    event(&log(0, event_type, data, measured)).proof(HashAlgorithm::Sha256)
}

fn wide(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

fn variable(vendor: Guid, name: &str, data: &[u8]) -> Vec<u8> {
    let lengths = [name.encode_utf16().count(), data.len()].map(|length| u64::try_from(length).unwrap().to_le_bytes());
    [&vendor.0[..], lengths.as_flattened(), &wide(name), data].concat()
}

fn list(kind: Guid, header: u32, size: u32, body: &[u8]) -> Vec<u8> {
    let all = u32::try_from(body.len() + 28).unwrap();
    [&kind.0[..], &all.to_le_bytes(), &header.to_le_bytes(), &size.to_le_bytes(), body].concat()
}

/// Type, subtype and body of a device path's node.
type Node<'a> = (u8, u8, &'a [u8]);

fn path(nodes: &[Node<'_>]) -> Vec<u8> {
    let node = |(kind, subtype, body): &Node<'_>| {
        [&[*kind, *subtype][..], &u16::try_from(body.len() + 4).unwrap().to_le_bytes(), body].concat()
    };
    nodes.iter().flat_map(node).chain([0x7F, 0xFF, 4, 0]).collect()
}

fn path_text(bytes: &[u8]) -> String {
    let length = u64::try_from(bytes.len()).unwrap();
    let data = [[0_u64, 0, 0, length].map(u64::to_le_bytes).as_flattened(), bytes].concat();
    let log = log(4, EV_EFI_BOOT_SERVICES_APPLICATION, &data, b"a program");
    let Content::Image(image) = event(&log).content() else { panic!("no image") };
    assert_eq!(image.path().bytes(), bytes);
    image.path().to_string()
}

#[test]
fn guids_are_written_as_uefi_writes_them() {
    assert_eq!(EFI_GLOBAL_VARIABLE.to_string(), "8be4df61-93ca-11d2-aa0d-00e098032b8c");
    assert_eq!(EFI_GLOBAL_VARIABLE.0[..4], [0x61, 0xDF, 0xE4, 0x8B]);
    assert_eq!(EFI_IMAGE_SECURITY_DATABASE.to_string(), "d719b2cb-3d3a-4596-a3bc-dad00e67656f");
    assert_eq!(SHIM_LOCK.to_string(), "605dab50-e046-4300-abb6-3dd810dd8b23");
    assert_eq!(format!("{SHIM_LOCK:?}"), "Guid(605dab50-e046-4300-abb6-3dd810dd8b23)");
}

#[test]
fn a_variable_is_itself_only_by_vendor_and_whole_name() {
    let bytes = variable(EFI_GLOBAL_VARIABLE, "SecureBoot", &[1]);
    let log = log(7, EV_EFI_VARIABLE_DRIVER_CONFIG, &bytes, &bytes);
    let Content::Variable(variable) = event(&log).content() else { panic!("no variable") };
    assert!(variable.is(EFI_GLOBAL_VARIABLE, "SecureBoot"));
    assert_eq!((variable.name(), variable.data), ("SecureBoot".into(), &[1][..]));
    for (vendor, name) in
        [(SHIM_LOCK, "SecureBoot"), (EFI_GLOBAL_VARIABLE, "SecureBoo"), (EFI_GLOBAL_VARIABLE, "SecureBoot\0")]
    {
        assert!(!variable.is(vendor, name), "{vendor} {name}");
    }
}

#[test]
fn a_variable_whose_lengths_do_not_fit_is_shown_as_bytes() {
    let good = variable(EFI_GLOBAL_VARIABLE, "PK", &[7; 5]);
    for (at, length) in [(16, u64::MAX), (16, u64::MAX / 2 + 1), (24, u64::MAX), (24, 6), (16, 3)] {
        let mut bad = good.clone();
        bad[at..at + 8].copy_from_slice(&length.to_le_bytes());
        let log = log(7, EV_EFI_VARIABLE_DRIVER_CONFIG, &bad, &bad);
        assert_eq!(event(&log).content(), Content::Other(&bad), "{length} at {at}");
    }
    for cut in 0..good.len() {
        let log = log(7, EV_EFI_VARIABLE_DRIVER_CONFIG, &good[..cut], b"");
        assert!(matches!(event(&log).content(), Content::Other(_)), "cut at {cut}");
    }
}

#[test]
fn signature_lists_are_walked_to_their_end() {
    let entry = |owner: u8, data: u8, length: usize| [vec![owner; 16], vec![data; length]].concat();
    let lists = [
        list(EFI_CERT_SHA256, 0, 48, &[entry(1, 2, 32), entry(3, 4, 32)].concat()),
        list(EFI_CERT_SHA256, 0, 48, &[]),
        list(EFI_CERT_X509, 3, 21, &[vec![0xEE; 3], entry(5, 6, 5)].concat()),
    ]
    .concat();
    let found: Vec<_> = signatures(&lists).map(Result::unwrap).collect();
    let kinds: Vec<_> = found.iter().map(|found| (found.kind, found.owner.0[0], found.data.len())).collect();
    assert_eq!(kinds, [(EFI_CERT_SHA256, 1, 32), (EFI_CERT_SHA256, 3, 32), (EFI_CERT_X509, 5, 5)]);
    assert_eq!(found[2].data, [6; 5]);
    assert_eq!(signatures(&[]).count(), 0);
}

#[test]
fn signature_lists_with_lengths_that_do_not_agree_are_refused_once_and_with_the_offset() {
    let good = list(EFI_CERT_SHA256, 0, 48, &[9; 48]);
    for (at, length) in
        [(16, 0), (16, 27), (16, u32::MAX), (20, u32::MAX), (20, 49), (24, 0), (24, 16), (24, 47), (24, u32::MAX)]
    {
        let mut bad = good.clone();
        bad[at..at + 4].copy_from_slice(&length.to_le_bytes());
        // A list that is whole before it: what is wrong is so at an offset of the whole.
        let bytes = [&good[..], &bad].concat();
        let all: Vec<_> = signatures(&bytes).collect();
        assert_eq!(all.len(), 2, "{length} at {at}");
        assert!(all[1].as_ref().unwrap_err().at >= good.len(), "{length} at {at}");
    }
    for cut in 1..good.len() {
        let all: Vec<_> = signatures(&good[..cut]).collect();
        assert!(all.len() == 1 && all[0].is_err(), "cut at {cut}");
    }
}

#[test]
fn device_paths_are_written_as_uefi_writes_them() {
    let disk = [&[1, 0, 0, 0][..], &0x800_u64.to_le_bytes(), &0x10_u64.to_le_bytes(), &SHIM_LOCK.0, &[2, 2]].concat();
    let mbr = [&[2, 0, 0, 0][..], &[0; 16], &[0x78, 0x56, 0x34, 0x12], &[0; 12], &[1, 1]].concat();
    let mac = [&[0x52, 0x54, 0, 0x12, 0x34, 0x56][..], &[0; 26], &[1]].concat();
    let memory = [&[11, 0, 0, 0][..], &0x1000_u64.to_le_bytes(), &0x1FFF_u64.to_le_bytes()].concat();
    let cases: [(&[Node<'_>], &str); 14] = [
        (&[(2, 1, &[0xD0, 0x41, 3, 0x0A, 0, 0, 0, 0]), (1, 1, &[0, 0x1F])], "PciRoot(0x0)/Pci(0x1f,0x0)"),
        (&[(2, 1, &[0xD0, 0x41, 1, 5, 2, 0, 0, 0])], "Acpi(PNP0501,0x2)"),
        (&[(3, 23, &[1, 0, 0, 0, 0, 0x25, 0x38, 1, 2, 3, 4, 5])], "NVMe(0x1,00-25-38-01-02-03-04-05)"),
        (&[(4, 1, &disk)], "HD(1,GPT,605dab50-e046-4300-abb6-3dd810dd8b23,0x800,0x10)"),
        (&[(4, 1, &mbr)], "HD(2,MBR,0x12345678,0x0,0x0)"),
        (&[(4, 4, &wide("\\EFI\\a")), (4, 4, &wide("b.efi\0"))], "\\EFI\\a/b.efi"),
        (&[(3, 11, &mac)], "MAC(525400123456,0x1)"),
        (
            &[(4, 7, &SHIM_LOCK.0), (4, 6, &EFI_CERT_X509.0)],
            "Fv(605dab50-e046-4300-abb6-3dd810dd8b23)/FvFile(a5c059a1-94e4-4aa7-87b5-ab155c2bf072)",
        ),
        (&[(3, 5, &[3, 1]), (3, 18, &[1, 0, 0xFF, 0xFF, 0, 0])], "USB(0x3,0x1)/Sata(0x1,0xffff,0x0)"),
        (&[(1, 3, &memory)], "MemoryMapped(0xb,0x1000,0x1fff)"),
        (&[(1, 4, &[&SHIM_LOCK.0[..], &[0xAB]].concat())], "VenHw(605dab50-e046-4300-abb6-3dd810dd8b23,ab)"),
        (&[(9, 9, &[0xAB, 0xCD])], "Path(9,9,abcd)"),
        (&[(1, 1, &[0])], "Path(1,1,00)"),
        (&[(1, 5, &[1, 0, 0, 0]), (0x7F, 1, &[]), (1, 5, &[2, 0, 0, 0])], "Ctrl(0x1),Ctrl(0x2)"),
    ];
    for (nodes, text) in cases {
        assert_eq!(path_text(&path(nodes)), text);
    }
}

#[test]
fn a_device_path_that_is_none_ends_where_it_stops_being_one() {
    assert_eq!(path_text(&[]), "");
    assert_eq!(path_text(&[1, 1, 3, 0, 9]), "malformed:0101030009");
    assert_eq!(path_text(&[1, 5, 8, 0, 1, 0, 0, 0, 1, 1, 0xFF, 0xFF]), "Ctrl(0x1)/malformed:0101ffff");
    let name = path(&[(4, 4, &wide("a\u{1b}[31m\u{202e}\u{0}ü\\"))]);
    assert_eq!(path_text(&name), "a\\u{1b}[31m\\u{202e}\\u{0}ü\\");
    assert_eq!(path_text(&path(&[(4, 4, &[0x00, 0xD8, b'a'])])), "\\u{d800}a");
}

#[test]
fn text_of_events_is_printable_and_bounded() {
    assert_eq!(shown(EV_ACTION, b"a\x1b[2J\n\xff\\"), "\"a\\x1b[2J\\n\\xff\\\\\"");
    assert_eq!(shown(EV_POST_CODE, b"ACPI DATA\0"), "\"ACPI DATA\"");
    assert_eq!(shown(EV_S_CRTM_VERSION, &wide("1.0\0")), "\"1.0\"");
    assert_eq!(shown(EV_TABLE_OF_DEVICES, b"dts\0"), "\"dts\"");
    assert_eq!(shown(EV_IPL, &[0xAA; 100]).len(), 2 * 64 + "… and 36 bytes more".len());
    assert!(shown(EV_ACTION, &[b'x'; 100_000]).len() < 5_000);
    let many = list(EFI_CERT_SHA256, 0, 17, &[0; 17 * 5_000]);
    assert!(shown(EV_EFI_VARIABLE_DRIVER_CONFIG, &variable(EFI_IMAGE_SECURITY_DATABASE, "dbx", &many)).len() < 200);
    assert!(shown(EV_EFI_VARIABLE_BOOT, &variable(EFI_GLOBAL_VARIABLE, "BootOrder", &[0; 9_000])).len() < 300);
}

#[test]
fn a_separator_is_what_its_digest_says() {
    let good = 0_u32.to_le_bytes();
    let error = 1_u32.to_le_bytes();
    for (data, measured, separator) in [
        (&good[..], &good[..], Separator::Good),
        (&[0xFF; 4], &[0xFF; 4], Separator::GoodFfff),
        (&error, &error, Separator::Error(1)),
        (b"the fan stands still", &error, Separator::Error(1)),
        // What the log's author writes over an error changes nothing.
        (&good, &error, Separator::Error(1)),
        (&error, &good, Separator::Good),
        (&good, &[2; 4], Separator::Other),
        (&[0; 5], &[0; 5], Separator::Other),
    ] {
        let log = log(0, EV_SEPARATOR, data, measured);
        assert_eq!(event(&log).content(), Content::Separator(separator), "{data:?} {measured:?}");
    }
    // Of a bank that cannot be computed, the data is all there is.
    let log = [header(&[(0x12, 32)]), agile(0, EV_SEPARATOR, &[(0x12, &ONE)], &error)].concat();
    assert_eq!(event(&log).content(), Content::Separator(Separator::Error(1)));
}

#[test]
fn what_a_digest_proves_is_what_its_measurer_hashed() {
    let value = variable(EFI_GLOBAL_VARIABLE, "BootOrder", &[1, 0]);
    let longer = [&value[..], &[0xAF]].concat();
    let cases: [(u32, &[u8], &[u8], Proof); 18] = [
        (EV_ACTION, b"Calling INT 19h", b"Calling INT 19h", Proof::Whole),
        (EV_ACTION, b"Calling INT 19h\0", b"Calling INT 19h", Proof::Whole),
        (EV_EFI_ACTION, b"Exit", b"Exit\0", Proof::Whole),
        (EV_EFI_ACTION, b"Exit", b"exit", Proof::Nothing),
        (EV_SEPARATOR, b"an error", &[1, 0, 0, 0], Proof::Whole),
        (EV_SEPARATOR, &[0; 4], &[2; 4], Proof::Nothing),
        (EV_EFI_VARIABLE_BOOT, &value, &[1, 0], Proof::Unlabelled),
        (EV_EFI_VARIABLE_BOOT, &value, &value, Proof::Whole),
        (EV_EFI_VARIABLE_AUTHORITY, &longer, &value, Proof::Whole),
        // Whoever measures only the data leaves open which variable it is.
        (EV_EFI_VARIABLE_DRIVER_CONFIG, &value, &[1, 0], Proof::Nothing),
        (EV_EFI_VARIABLE_BOOT2, &value, &[1, 0], Proof::Nothing),
        (EV_IPL, b"grub_cmd: set a=1\0", b"set a=1", Proof::Unlabelled),
        (EV_IPL, b"kernel_cmdline: /vmlinuz ro\0", b"/vmlinuz ro", Proof::Unlabelled),
        (EV_IPL, b"module_cmdline: x", b"x", Proof::Unlabelled),
        (EV_IPL, b"other: x", b"x", Proof::Nothing),
        (EV_IPL, &[b'.', 0, b'l', 0, 0, 0], b".l\0", Proof::Whole),
        (EV_IPL, b"/boot/vmlinuz\0", b"the kernel", Proof::Nothing),
        (EV_NO_ACTION, b"x", b"x", Proof::Nothing),
    ];
    for (event_type, data, measured, expected) in cases {
        assert_eq!(proof(event_type, data, measured), expected, "{:x} {}", event_type, Ascii(data));
        let log = log(0, event_type, data, measured);
        let event = event(&log);
        assert_eq!(event.proves_content(HashAlgorithm::Sha256), expected != Proof::Nothing);
        assert_eq!(event.proof(HashAlgorithm::Sha384), Proof::Nothing, "there is no such digest");
    }
}

#[test]
fn logs_of_sha_1_measure_only_a_variables_data() {
    let value = variable(EFI_GLOBAL_VARIABLE, "SecureBoot", &[1]);
    let digest = HashAlgorithm::Sha1.hash(&[1]).unwrap();
    let log = sha1(7, EV_EFI_VARIABLE_DRIVER_CONFIG, digest.as_ref().try_into().unwrap(), &value);
    let event = EventLog::read(&log).unwrap().events().next().unwrap().unwrap();
    assert_eq!(event.proof(HashAlgorithm::Sha1), Proof::Unlabelled);
}

#[test]
fn the_command_line_is_found_in_each_of_its_places() {
    let tag = [&LOAD_OPTIONS_TAG.to_le_bytes()[..], &[1, 0, 0, 0, b'x']].concat();
    let ended = |text: &str| wide(&format!("{text}\0"));
    /// PCR, type, data, what was hashed, and the text that is proven.
    type Case = (u32, u32, Vec<u8>, Vec<u8>, Option<&'static str>);
    let cases: [Case; 8] = [
        (9, EV_EVENT_TAG, tag.clone(), ended("ro quiet"), None),
        (9, EV_EVENT_TAG, tag, wide("ro quiet"), None),
        (11, EV_IPL, ended(".cmdline"), b"ro quiet".to_vec(), None),
        (11, EV_IPL, ended(".cmdline"), b"ro quiet\n\0".to_vec(), None),
        (12, EV_IPL, ended("ro quiet"), ended("ro quiet"), Some("ro quiet")),
        (8, EV_IPL, ended("ro quiet"), ended("ro quiet"), Some("ro quiet")),
        (8, EV_IPL, b"kernel_cmdline: ro quiet\0".to_vec(), b"ro quiet".to_vec(), Some("ro quiet")),
        // The text is another than what was measured: only the latter counts.
        (8, EV_IPL, b"kernel_cmdline: rw\0".to_vec(), b"ro quiet".to_vec(), None),
    ];
    for (pcr, event_type, data, measured, text) in cases {
        let log = log(pcr, event_type, &data, &measured);
        let found = event(&log).command_line().unwrap_or_else(|| panic!("PCR {pcr} {}", Ascii(&data)));
        assert!(found.is("ro quiet"), "PCR {pcr} {}", Ascii(&measured));
        assert!(!found.is("ro quiet ") && !found.is("") && !found.is("rw"));
        assert_eq!(found.text().as_deref(), text, "PCR {pcr}");
    }
}

#[test]
fn an_event_elsewhere_is_no_command_line() {
    let tag = [&INITRD_TAG.to_le_bytes()[..], &[1, 0, 0, 0, b'x']].concat();
    let cases: [(u32, u32, Vec<u8>, Vec<u8>); 7] = [
        (9, EV_EVENT_TAG, tag, wide("ro")),
        (11, EV_IPL, wide(".cmdline\0"), b".cmdline\0".to_vec()),
        (11, EV_IPL, wide(".initrd\0"), b"ro".to_vec()),
        (12, EV_IPL, wide("Credentials initrd\0"), b"credentials".to_vec()),
        (8, EV_IPL, b"grub_cmd: ro\0".to_vec(), b"ro".to_vec()),
        (9, EV_IPL, b"kernel_cmdline: ro\0".to_vec(), b"ro".to_vec()),
        (8, EV_ACTION, b"kernel_cmdline: ro\0".to_vec(), b"ro".to_vec()),
    ];
    for (pcr, event_type, data, measured) in cases {
        let log = log(pcr, event_type, &data, &measured);
        assert!(event(&log).command_line().is_none(), "PCR {pcr} {}", Ascii(&data));
    }
    // Only U-Boot measures it where other firmware has flags of its own.
    let flags = |version: &[u8]| {
        let event = |event_type, data| agile(u32::from(event_type != 8), event_type, &[(0xB, &sha256(data))], data);
        [header(&[SHA256]), event(8, version), event(EV_PLATFORM_CONFIG_FLAGS, b"ro\0")].concat()
    };
    for (version, text) in [(&b"U-Boot 2024.10\0"[..], Some("ro")), (b"N40ET41W\0", None)] {
        let log = flags(version);
        let event = EventLog::read(&log).unwrap().events().nth(2).unwrap().unwrap();
        assert_eq!(event.command_line().and_then(|line| line.text()).as_deref(), text);
    }
    let old = sha1(8, EV_IPL, [1; 20], b"kernel_cmdline: ro");
    let old = EventLog::read(&old).unwrap().events().next().unwrap().unwrap();
    assert!(old.command_line().is_none(), "without a SHA-256 digest there is nothing to hold a text against");
}

fn coreboot(entries: &[(u32, &str, &[u8], &str)], most: u16) -> Vec<u8> {
    let count = u16::try_from(entries.len()).unwrap();
    let mut table = [most.to_le_bytes(), count.to_le_bytes()].concat();
    for (pcr, algorithm, digest, name) in entries {
        let mut entry = [0; 132];
        entry[..4].copy_from_slice(&pcr.to_le_bytes());
        entry[4..4 + algorithm.len()].copy_from_slice(algorithm.as_bytes());
        entry[14..14 + digest.len()].copy_from_slice(digest);
        entry[78..82].copy_from_slice(&u32::try_from(digest.len()).unwrap().to_le_bytes());
        entry[82..82 + name.len()].copy_from_slice(name.as_bytes());
        table.extend(entry);
    }
    table
}

#[test]
fn the_table_of_coreboot_is_read_to_its_end_and_proves_nothing() {
    let table = coreboot(&[(2, "SHA256", &ONE, "FMAP: BOOTBLOCK"), (2, "SHA256", &sha256(b"n"), "n")], 2);
    assert!(looks_like(&table));
    let log = EventLog::read(&table).unwrap();
    assert_eq!(log.format(), Format::Coreboot);
    assert_eq!(log.algorithms(), [DeclaredAlgorithm { id: 0xB, size: 32 }]);
    let replay = log.inspect().unwrap();
    let first = sha256_of(&[&[0; 32], &ONE]);
    assert_eq!((replay.events, replay.sha256(2)), (2, Some(sha256_of(&[&first, &sha256(b"n")]))));
    assert_eq!(replay.problems, []);
    let events: Vec<_> = log.events().map(Result::unwrap).collect();
    assert_eq!(events[0].content(), Content::Action(b"FMAP: BOOTBLOCK"));
    // Even a digest of the name says nothing: names are never measured.
    assert!(!events[1].proves_content(HashAlgorithm::Sha256));
}

#[test]
fn a_damaged_table_of_coreboot_is_refused_with_the_position() {
    let good = [(0, "SHA256", &ONE[..], "first"), (23, "SHA1", &ONE[..20], "second")];
    let table = coreboot(&good, 7);
    for cut in 0..table.len() {
        let replay = EventLog::read(&table[..cut]).and_then(|log| log.replay(None));
        assert!(replay.is_err_and(|error| error.at <= cut), "cut at {cut}");
    }
    for (at, byte) in [(136 + 78, 21), (136 + 78, 0), (136 + 81, 1), (136 + 4, 0x1B), (136 + 82, 0xFF)] {
        let mut bad = table.clone();
        bad[at] = byte;
        let error = EventLog::read(&bad).unwrap().replay(None).unwrap_err();
        assert!((136..=at).contains(&error.at), "{byte} at {at}: {error}");
    }
    let unknown = coreboot(&[(0, "SHA3", &[7; 28], "x"), (0, "SHA256", &ONE, "y")], 2);
    let replay = EventLog::read(&unknown).unwrap().replay(None).unwrap();
    assert_eq!(replay.sha256(0), Some(sha256_of(&[&[0; 32], &ONE])));
    assert_eq!(replay.problems[0].code, "eventlog.bank-not-computed");
    let no_pcr = coreboot(&[(0, "SHA256", &ONE, "x"), (24, "SHA256", &ONE, "y")], 2);
    assert_eq!(EventLog::read(&no_pcr).unwrap().replay(None).unwrap().problems[0].code, "eventlog.pcr-index");
}
