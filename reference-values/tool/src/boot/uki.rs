//! A unified kernel image (UAPI.5): in, the file and logs of boots; out, its command line and kernel release, once the
//! logs have shown that it is what booted.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use evidence::{
    eventlog::{EV_EFI_BOOT_SERVICES_APPLICATION, EV_IPL, EventLog},
    pcr::{HashAlgorithm, sha256},
};

use super::pe::Pe;
use crate::{failure::Failure, files};

/// Largest image: kernel and initrd of a product.
const MAX_IMAGE: usize = 1024 * 1024 * 1024;
/// Sections that every systemd-stub measures into PCR 11.
const MEASURED: [&str; 4] = [".linux", ".osrel", ".cmdline", ".initrd"];

/// An image that was read.
#[derive(Debug)]
pub(crate) struct Uki {
    path: PathBuf,
    /// Its command line, as text.
    pub(crate) command_line: Option<String>,
    /// What `uname -r` says of its kernel.
    pub(crate) kernel: Option<String>,
    /// What firmware measures of it.
    authenticode: [u8; 32],
    /// Name and digest of each section that the stub measures.
    sections: Vec<(String, [u8; 32])>,
}

impl Uki {
    pub(crate) fn read(path: &Path) -> Result<Self, Failure> {
        let bytes = files::read(path, MAX_IMAGE)?;
        let failed = |error: &dyn std::fmt::Display| Failure::input(path, error);
        let image = Pe::read(&bytes).map_err(|error| failed(&error))?;
        let mut uki = Self {
            path: path.to_owned(),
            command_line: None,
            kernel: None,
            authenticode: image.authenticode,
            sections: Vec::new(),
        };
        for (name, content) in &image.sections {
            let words = || text(content).ok_or_else(|| failed(&format_args!("{name} is no text")));
            match name.as_str() {
                ".profile" => {
                    return Err(failed(&"has several profiles; give their command lines with --cmdline instead"));
                }
                ".cmdline" => uki.command_line = Some(words()?),
                ".uname" => uki.kernel = Some(words()?),
                _ => {}
            }
            if MEASURED.contains(&name.as_str()) {
                uki.sections.push((name.clone(), sha256(content)));
            }
        }
        if !uki.sections.iter().any(|(name, _)| name == ".linux") {
            return Err(failed(&"no section .linux, so it is no unified kernel image"));
        }
        Ok(uki)
    }

    /// What of this image the log lacks.
    fn missing(&self, booted: &Booted) -> Option<String> {
        if !booted.programs.contains(&self.authenticode) {
            return Some("no program in PCR 4 has its Authenticode digest".into());
        }
        let (name, _) = self.sections.iter().find(|(_, digest)| !booted.sections.contains(digest))?;
        Some(format!("no event in PCR 11 has the digest of its section {name}"))
    }
}

fn text(content: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(content).ok()?;
    Some(text.trim_end_matches(['\0', '\n']).to_owned())
}

/// What a log shows of programs and sections.
struct Booted {
    programs: BTreeSet<[u8; 32]>,
    sections: BTreeSet<[u8; 32]>,
}

impl Booted {
    fn read(log: &EventLog<'_>) -> Self {
        let of = |pcr: u32, event_type: u32| {
            // A log that does not decode is refused when rules are made from it.
            let events = log.events().map_while(Result::ok);
            let events = events.filter(move |event| event.pcr == pcr && event.event_type == event_type);
            events.filter_map(|event| event.digest(HashAlgorithm::Sha256)?.try_into().ok()).collect()
        };
        Self { programs: of(4, EV_EFI_BOOT_SERVICES_APPLICATION), sections: of(11, EV_IPL) }
    }
}

/// Holds images against logs: each log is of one of the images, and each image is in one of the logs.
pub(crate) fn check_booted(images: &[Uki], logs: &[(&Path, EventLog<'_>)]) -> Result<(), Failure> {
    if images.is_empty() {
        return Ok(());
    }
    let booted = logs.iter().map(|(path, log)| (*path, Booted::read(log))).collect::<Vec<_>>();
    for (path, log) in &booted {
        let missing = images.iter().map(|image| Some((image, image.missing(log)?))).collect::<Option<Vec<_>>>();
        if let Some((image, why)) = missing.and_then(|all| all.into_iter().next()) {
            return Err(Failure::Usage(format!(
                "{}: {} is not what booted: {why}; give the image of this boot with --uki, or only logs of its boots",
                path.display(),
                image.path.display()
            )));
        }
    }
    match images.iter().find(|image| booted.iter().all(|(_, log)| image.missing(log).is_some())) {
        Some(image) => Err(Failure::Usage(format!("{}: none of the logs shows a boot of it", image.path.display()))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::boot::pe::{Pe, tests::image};

    /// A crypto-agile log of SHA-256 alone with these digests: PCR, type, digest.
    fn log(events: &[(u32, u32, [u8; 32])]) -> Vec<u8> {
        let spec_id = [&b"Spec ID Event03\0\0\0\0\0\0\x02\0\x02"[..], &[1, 0, 0, 0, 0x0B, 0, 32, 0, 0]].concat();
        let size = u32::try_from(spec_id.len()).unwrap().to_le_bytes();
        let mut out = [&[0, 0, 0, 0, 3, 0, 0, 0][..], &[0; 20], &size, &spec_id].concat();
        for (pcr, event_type, digest) in events {
            out.extend([*pcr, *event_type, 1].map(u32::to_le_bytes).concat());
            out.extend([&[0x0B, 0][..], digest, &[0; 4]].concat());
        }
        out
    }

    fn boot_of(image: &[u8], sections: &[&[u8]]) -> Vec<u8> {
        let program = (4, EV_EFI_BOOT_SERVICES_APPLICATION, Pe::read(image).unwrap().authenticode);
        let sections = sections.iter().map(|content| (11, EV_IPL, sha256(content)));
        log(&std::iter::once(program).chain(sections).collect::<Vec<_>>())
    }

    fn check(images: &[&Uki], logs: &[&[u8]]) -> Result<(), String> {
        let images = images.iter().map(|image| Uki { path: image.path.clone(), ..Uki::read(&image.path).unwrap() });
        let logs = logs.iter().map(|log| (Path::new("log"), EventLog::read(log).unwrap())).collect::<Vec<_>>();
        check_booted(&images.collect::<Vec<_>>(), &logs).map_err(|failure| failure.to_string())
    }

    #[test]
    fn an_image_counts_once_a_log_shows_that_it_booted() {
        let folder = tempfile::TempDir::new().unwrap();
        let write = |name: &str, sections: &[(&str, &[u8])]| {
            let path = folder.path().join(name);
            fs::write(&path, image(sections)).unwrap();
            (Uki::read(&path), fs::read(&path).unwrap())
        };
        let (one, bytes) = write("a.efi", &[(".linux", b"kernel"), (".cmdline", b"quiet\n\0"), (".uname", b"6.1.0")]);
        let one = one.unwrap();
        assert_eq!((one.command_line.as_deref(), one.kernel.as_deref()), (Some("quiet"), Some("6.1.0")));
        let (two, other) = write("b.efi", &[(".linux", b"another")]);
        let two = two.unwrap();

        let good = boot_of(&bytes, &[b"kernel", b"quiet\n\0"]);
        assert_eq!(check(&[&one], &[&good]), Ok(()));
        let relabelled = check(&[&one], &[&boot_of(&bytes, &[b"kernel"])]).unwrap_err();
        assert!(relabelled.contains(".cmdline"), "{relabelled}");
        let unsigned = check(&[&one], &[&boot_of(&other, &[b"kernel", b"quiet\n\0"])]).unwrap_err();
        assert!(unsigned.contains("Authenticode"), "{unsigned}");
        let both = boot_of(&other, &[b"another"]);
        assert_eq!(check(&[&one, &two], &[&good, &both]), Ok(()));
        assert!(check(&[&one, &two], &[&good]).unwrap_err().contains("b.efi: none of the logs"));
        assert!(check(&[&one], &[&good, &both]).is_err());
    }

    #[test]
    fn what_is_no_unified_kernel_image_is_refused() {
        let folder = tempfile::TempDir::new().unwrap();
        let path = folder.path().join("x.efi");
        for (content, word) in [
            (b"MZ".to_vec(), "malformed"),
            (image(&[(".text", b"code")]), ".linux"),
            (image(&[(".linux", b"k"), (".profile", b"ID=a")]), "profiles"),
            (image(&[(".linux", b"k"), (".cmdline", b"\xFF")]), "no text"),
        ] {
            fs::write(&path, content).unwrap();
            let message = Uki::read(&path).unwrap_err().to_string();
            assert!(message.contains(word), "{message}");
        }
    }
}
