//! A Debian package (deb(5)): in, the file; out, what it installs, and the scripts that run meanwhile.

use std::{
    fs::File,
    io::{self, BufReader, Read},
    os::unix::fs::FileExt as _,
    path::Path,
    sync::Arc,
};

use super::{
    Found, Image, Options,
    limits::{BEGINNING, MAX_UNPACKED},
    tar,
    unpack::{Compression, fill, to_file},
};
use crate::failure::Failure;

/// What an ar archive begins with.
pub(super) const MAGIC: &[u8] = b"!<arch>\n";
const HEADER: usize = 60;
/// Scripts of a package (deb-src, deb-postinst(5) and its kind), which dpkg keeps and runs.
const SCRIPTS: [&str; 5] = ["/preinst", "/postinst", "/prerm", "/postrm", "/config"];
/// A package's description has some kilobytes.
const MAX_DESCRIPTION: u64 = 1 << 20;

pub(super) fn measure(image: &Image<'_>, options: &Options) -> Result<Found, Failure> {
    let damaged = |error| image.damaged("Debian package", error);
    let members = members(&image.file).map_err(damaged)?;
    let part = |prefix: &str| {
        let member = members.iter().find(|member| member.name.starts_with(prefix));
        let missing = || io::Error::other(format!("{prefix} is missing"));
        let file = member.ok_or_else(missing).and_then(|member| member.unpack(&image.file)).map_err(damaged)?;
        Ok(Image { name: image.name, file: Arc::new(file) })
    };
    if members.first().is_none_or(|member| member.name != "debian-binary") {
        return Err(damaged(io::Error::other("its first member is not debian-binary")));
    }
    let mut found = tar::measure(&part("data.tar")?, options)?;
    let control = part("control.tar")?;
    let package = package(&control).map_err(damaged)?;
    found.extend(tar::measure(&control, options)?.only(|path| {
        let script = SCRIPTS.iter().find(|script| path == **script)?;
        Some(format!("/var/lib/dpkg/info/{package}.{}", script.trim_start_matches('/')))
    }));
    Ok(found)
}

/// A part of an ar archive.
struct Member {
    name: String,
    start: u64,
    size: u64,
}

impl Member {
    fn unpack(&self, file: &File) -> io::Result<File> {
        let mut input = BufReader::new(Part { file, position: self.start, left: self.size });
        let mut beginning = [0; BEGINNING];
        let filled = fill(&mut input, &mut beginning)?;
        let input = beginning[..filled].chain(input);
        let within = |error: io::Error| io::Error::other(format!("{}: {error}", self.name));
        match Compression::of(&beginning[..filled]) {
            Some(compression) => to_file(compression.unpack(input), MAX_UNPACKED).map_err(within),
            None => to_file(input, MAX_UNPACKED).map_err(within),
        }
    }
}

struct Part<'a> {
    file: &'a File,
    position: u64,
    left: u64,
}

impl Read for Part<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let most = out.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let read = self.file.read_at(&mut out[..most], self.position)?;
        self.position += read as u64;
        self.left -= read as u64;
        Ok(read)
    }
}

fn members(file: &File) -> io::Result<Vec<Member>> {
    let length = file.metadata()?.len();
    let mut at = MAGIC.len() as u64;
    let mut out = Vec::new();
    while at < length && out.len() < 16 {
        let mut header = [0; HEADER];
        file.read_exact_at(&mut header, at).map_err(|_| io::Error::other("truncated"))?;
        let text = |range: std::ops::Range<usize>| std::str::from_utf8(&header[range]).unwrap_or_default().trim_end();
        let size = text(48..58).parse::<u64>().ok().filter(|_| header.ends_with(b"`\n"));
        let size = size.ok_or_else(|| io::Error::other(format!("byte {at} is no header of an ar archive")))?;
        let (name, start) = (text(0..16).trim_end_matches('/').to_owned(), at + HEADER as u64);
        let end = start.checked_add(size).filter(|&end| end <= length);
        let end = end.ok_or_else(|| io::Error::other(format!("it ends within {name}: it is truncated")))?;
        out.push(Member { name, start, size });
        at = end + end % 2;
    }
    Ok(out)
}

/// As dpkg names the files that it keeps of a package.
fn package(control: &Image<'_>) -> io::Result<String> {
    let text = tar::text(control, Path::new("/control"), MAX_DESCRIPTION)?;
    let field = |name: &str| {
        let mut lines = text.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(|value| value.trim().to_owned())
    };
    let name = field("Package").ok_or_else(|| io::Error::other("control names no Package"))?;
    let letters = |name: &str| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
    if !letters(&name) {
        return Err(io::Error::other("the name of the package has odd letters"));
    }
    match (field("Multi-Arch"), field("Architecture")) {
        (Some(same), Some(architecture)) if same == "same" && letters(&architecture) => {
            Ok(format!("{name}:{architecture}"))
        }
        _ => Ok(name),
    }
}
