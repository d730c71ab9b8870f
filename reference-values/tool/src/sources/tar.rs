//! A tar archive: in, the file; out, the regular files that unpacking it would leave, each where it stands in the file.

use std::{
    cell::Cell,
    collections::HashMap,
    ffi::OsStr,
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    os::unix::{ffi::OsStrExt as _, fs::FileExt as _},
    path::{Component, Path, PathBuf},
    rc::Rc,
};

use tar::{Archive, EntryType, GnuExtSparseHeader, GnuSparseHeader, Header};

use super::{
    Found, Image, Options,
    hash::{self, Entry, Source},
    limits::{MAX_ENTRY_HEADERS, MAX_NAMES},
};
use crate::failure::Failure;

/// Where the magic number of a header stands, and what it is (POSIX ustar, and GNU's older form).
pub(super) const MAGIC: (usize, [u8; 5]) = (257, *b"ustar");

pub(super) fn measure(image: &Image<'_>, options: &Options) -> Result<Found, Failure> {
    let entries = files(&image.file).map_err(|error| image.damaged("tar", error))?;
    hash::measure(&Files(image), entries, options)
}

/// Where a file's content is.
pub(super) enum At {
    Plain {
        start: u64,
    },
    /// With holes, which its header tells.
    Sparse {
        header: u64,
    },
}

/// What unpacking would leave: later entries take the place of earlier ones, hard links are other names of one file.
fn files(file: &File) -> io::Result<Vec<Entry<At>>> {
    let length = file.metadata()?.len();
    let (budget, ended) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(false)));
    let input = Headers { at: Place { file, position: 0 }, budget: Rc::clone(&budget), ended: Rc::clone(&ended) };
    let mut archive = Archive::new(input);
    let mut entries = archive.entries_with_seek()?;
    let mut contents = Vec::<Entry<At>>::new();
    let mut names = HashMap::<PathBuf, usize>::new();
    loop {
        budget.set(MAX_ENTRY_HEADERS);
        let Some(entry) = entries.next() else { break };
        let mut entry = entry?;
        let (path, kind) = (inside(&entry.path_bytes())?, entry.header().entry_type());
        let wrong = |why: &str| io::Error::other(format!("{}: {why}", path.display()));
        if contents.len() >= MAX_NAMES || names.len() >= MAX_NAMES {
            return Err(wrong(&format!("more than {MAX_NAMES} names")));
        }
        match kind {
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let start = entry.raw_file_position();
                let header = entry.raw_header_position();
                if is_pax_sparse(&mut entry)? {
                    return Err(wrong(
                        "holes in the form of POSIX; make the tar without --sparse, or with --format=gnu",
                    ));
                }
                let stored = if kind.is_gnu_sparse() { entry.header().entry_size()? } else { entry.size() };
                if start.checked_add(stored).is_none_or(|end| end > length) {
                    return Err(wrong("the archive ends within it: it is truncated"));
                }
                let at = if kind.is_gnu_sparse() { At::Sparse { header } } else { At::Plain { start } };
                let executable = entry.header().mode()? & 0o111 != 0;
                names.insert(path.clone(), contents.len());
                contents.push(Entry { path, size: entry.size(), executable, at });
            }
            EntryType::Link => {
                let target = entry.link_name_bytes().ok_or_else(|| wrong("a hard link to nothing"))?;
                let shown = Path::new(OsStr::from_bytes(&target)).display().to_string();
                let known = inside(&target).ok().and_then(|target| names.get(&target).copied());
                // A link to a link, a device or the like is none of ours; one to what is not there is.
                let known =
                    known.ok_or_else(|| wrong(&format!("a hard link to {shown}, which is no file before it")))?;
                names.insert(path, known);
            }
            _ => {
                names.remove(&path);
            }
        }
    }
    if ended.get() {
        return Err(io::Error::other("it lacks the blocks of zeros at its end: it is truncated"));
    }
    Ok(named(contents, names))
}

/// Files that still have a name, under the first of their names.
fn named(contents: Vec<Entry<At>>, names: HashMap<PathBuf, usize>) -> Vec<Entry<At>> {
    let mut first = HashMap::<usize, PathBuf>::new();
    for (path, content) in names {
        let known = first.entry(content).or_insert_with(|| path.clone());
        if path < *known {
            *known = path;
        }
    }
    let numbered = contents.into_iter().enumerate();
    numbered.filter_map(|(number, entry)| Some(Entry { path: first.remove(&number)?, ..entry })).collect()
}

/// The path from the root on; one that leads elsewhere is an error.
fn inside(name: &[u8]) -> io::Result<PathBuf> {
    let name = Path::new(OsStr::from_bytes(name));
    let wrong = |why: &str| Err(io::Error::other(format!("{}: {why}", name.display())));
    let mut path = PathBuf::from("/");
    for component in name.components() {
        match component {
            Component::Normal(part) => path.push(part),
            Component::CurDir => {}
            Component::ParentDir => return wrong("a name with .. in it"),
            _ => return wrong("an absolute name; make the tar with names from its root on"),
        }
    }
    Ok(path)
}

fn is_pax_sparse(entry: &mut tar::Entry<'_, Headers<'_>>) -> io::Result<bool> {
    let Some(extensions) = entry.pax_extensions()? else { return Ok(false) };
    for extension in extensions {
        if extension?.key_bytes().starts_with(b"GNU.sparse.") {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A place in a file that many read.
struct Place<'a> {
    file: &'a File,
    position: u64,
}

impl Read for Place<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(out, self.position)?;
        self.position += read as u64;
        Ok(read)
    }
}

/// Headers and names, with a bound for each entry; contents are passed over.
struct Headers<'a> {
    at: Place<'a>,
    budget: Rc<Cell<u64>>,
    /// Whether the file ended.
    ended: Rc<Cell<bool>>,
}

impl Read for Headers<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.at.read(out)?;
        let left = self.budget.get().checked_sub(read as u64);
        self.budget
            .set(left.ok_or_else(|| io::Error::other(format!("a name of more than {MAX_ENTRY_HEADERS} bytes")))?);
        self.ended.set(self.ended.get() || (read == 0 && !out.is_empty()));
        Ok(read)
    }
}

impl Seek for Headers<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::Current(by) => self.at.position.checked_add_signed(by),
            SeekFrom::End(_) => None,
        };
        self.at.position = position.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at.position)
    }
}

/// Files of an archive.
struct Files<'a>(&'a Image<'a>);

impl Source for Files<'_> {
    type At = At;
    type Opener = ();

    fn opener(&self) -> io::Result<()> {
        Ok(())
    }

    fn open<'o>(&'o self, (): &'o (), entry: &'o Entry<At>) -> io::Result<Box<dyn Read + 'o>> {
        match entry.at {
            At::Plain { start } => Ok(Box::new(Place { file: &self.0.file, position: start }.take(entry.size))),
            At::Sparse { header } => Ok(Box::new(Sparse::read(&self.0.file, header, entry.size)?)),
        }
    }

    fn failed(&self, _: &str, path: &Path, error: io::Error) -> Failure {
        self.0.damaged("tar", io::Error::other(format!("{}: {error}", path.display())))
    }

    fn shown(&self, path: &Path) -> String {
        self.0.inside(path)
    }
}

/// The content of one small text of an archive.
pub(super) fn text(image: &Image<'_>, path: &Path, limit: u64) -> io::Result<String> {
    let entries = files(&image.file)?;
    let missing = || io::Error::other(format!("{} is missing", path.display()));
    let entry = entries.iter().find(|entry| entry.path == path).ok_or_else(missing)?;
    let mut text = String::new();
    Files(image).open(&(), entry)?.take(limit).read_to_string(&mut text)?;
    Ok(text)
}

/// A file with holes (GNU's form), as its header lists what stands between them.
struct Sparse<'a> {
    file: &'a File,
    /// Where each part begins in the content and in the archive, and its length; in ascending order.
    parts: Vec<(u64, u64, u64)>,
    size: u64,
    position: u64,
}

impl<'a> Sparse<'a> {
    fn read(file: &'a File, header: u64, size: u64) -> io::Result<Self> {
        let wrong = || io::Error::other("its list of holes is damaged");
        let mut block = [0; 512];
        file.read_exact_at(&mut block, header)?;
        let first = Header::from_byte_slice(&block).as_gnu().ok_or_else(wrong)?;
        let mut listed = first.sparse.iter().map(part).collect::<io::Result<Vec<_>>>()?;
        let mut more = first.is_extended();
        let mut at = header;
        while more {
            at = at.checked_add(512).ok_or_else(wrong)?;
            let mut further = GnuExtSparseHeader::new();
            file.read_exact_at(further.as_mut_bytes(), at)?;
            listed.extend(further.sparse.iter().map(part).collect::<io::Result<Vec<_>>>()?);
            more = further.is_extended();
            if listed.len() as u64 > MAX_ENTRY_HEADERS {
                return Err(wrong());
            }
        }
        let mut data = at.checked_add(512).ok_or_else(wrong)?;
        let (mut parts, mut end) = (Vec::new(), 0);
        for (offset, length) in listed.into_iter().filter(|(_, length)| *length > 0) {
            let next = offset.checked_add(length).filter(|&next| offset >= end && next <= size).ok_or_else(wrong)?;
            parts.push((offset, data, length));
            (end, data) = (next, data.checked_add(length).ok_or_else(wrong)?);
        }
        Ok(Self { file, parts, size, position: 0 })
    }
}

fn part(listed: &GnuSparseHeader) -> io::Result<(u64, u64)> {
    if listed.is_empty() {
        return Ok((0, 0));
    }
    Ok((listed.offset()?, listed.length()?))
}

impl Read for Sparse<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let most = |length: u64| out.len().min(usize::try_from(length).unwrap_or(usize::MAX));
        let next = self.parts.partition_point(|(offset, _, length)| offset + length <= self.position);
        let read = match self.parts.get(next) {
            Some(&(offset, data, length)) if offset <= self.position => {
                let within = self.position - offset;
                let most = most(length - within);
                self.file.read_exact_at(&mut out[..most], data + within)?;
                most
            }
            part => {
                let end = part.map_or(self.size, |(offset, ..)| *offset);
                let most = most(end.saturating_sub(self.position));
                out[..most].fill(0);
                most
            }
        };
        self.position += read as u64;
        Ok(read)
    }
}
