//! Lines of /proc/PID/maps: bytes in, executable mappings out. Paths are raw bytes and may hold anything but a newline.

use std::borrow::Cow;

/// An executable mapping.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Mapping<'a> {
    start: u64,
    end: u64,
    /// Writable too.
    pub(super) writable: bool,
    /// 0 for memory without a file.
    pub(super) inode: u64,
    /// As the kernel writes it.
    pub(super) path: &'a [u8],
}

impl<'a> Mapping<'a> {
    /// `start-end perms offset device inode   path`; `None` for what is not executable.
    pub(super) fn parse_executable(line: &'a [u8]) -> Option<Self> {
        let mut fields = line.splitn(6, |&byte| byte == b' ');
        let range = std::str::from_utf8(fields.next()?).ok()?;
        let permissions = fields.next()?;
        if permissions.get(2) != Some(&b'x') {
            return None;
        }
        let (start, end) = range.split_once('-')?;
        let inode = std::str::from_utf8(fields.nth(2)?).ok()?.parse().ok()?;
        Some(Self {
            start: u64::from_str_radix(start, 16).ok()?,
            end: u64::from_str_radix(end, 16).ok()?,
            writable: permissions.get(1) == Some(&b'w'),
            inode,
            path: fields.next().unwrap_or_default().trim_ascii_start(),
        })
    }

    /// Name in /proc/PID/map_files: without the leading zeros of /proc/PID/maps.
    pub(super) fn range(&self) -> String {
        format!("{:x}-{:x}", self.start, self.end)
    }

    /// Code that the kernel itself maps into processes. Nobody else can give a mapping these names: names set by
    /// prctl(2) show as `[anon:…]`.
    pub(super) fn is_kernels(&self) -> bool {
        matches!(self.path, b"[vdso]" | b"[vsyscall]" | b"[uprobes]")
    }
}

/// Puts back the newline, the only byte that the kernel escapes here (fs/proc/task_mmu.c, show_map_vma).
pub(super) fn unescape(path: &[u8]) -> Cow<'_, [u8]> {
    const ESCAPED: &[u8] = b"\\012";
    if !path.windows(ESCAPED.len()).any(|window| window == ESCAPED) {
        return Cow::Borrowed(path);
    }
    let mut rest = path;
    let mut out = Vec::with_capacity(path.len());
    while let Some((&first, after)) = rest.split_first() {
        if let Some(after) = rest.strip_prefix(ESCAPED) {
            out.push(b'\n');
            rest = after;
        } else {
            out.push(first);
            rest = after;
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn executable_mappings_are_read_with_whatever_path_they_have() {
        let line = b"00400000-00402000 r-xp 00001000 fd:00 1234                       /opt/my app \xFF (deleted)";
        let mapping = Mapping::parse_executable(line).unwrap();
        assert_eq!(mapping.range(), "400000-402000");
        assert_eq!((mapping.inode, mapping.writable), (1234, false));
        assert_eq!(mapping.path, b"/opt/my app \xFF (deleted)");
    }

    #[test]
    fn memory_without_a_file_has_inode_zero_and_the_kernels_own_is_told_apart() {
        let anonymous = Mapping::parse_executable(b"7f0000000000-7f0000001000 rwxp 00000000 00:00 0 ").unwrap();
        assert!(anonymous.inode == 0 && anonymous.writable && !anonymous.is_kernels());
        let vdso = b"7ffd1000-7ffd2000 r-xp 00000000 00:00 0                          [vdso]";
        assert!(Mapping::parse_executable(vdso).unwrap().is_kernels());
        let named = b"7ffd1000-7ffd2000 r-xp 00000000 00:00 0                          [anon:[vdso]]";
        assert!(!Mapping::parse_executable(named).unwrap().is_kernels());
    }

    #[test]
    fn what_is_not_executable_or_not_a_line_is_left_out() {
        for line in [&b"00400000-00402000 rw-p 00001000 fd:00 1 /x"[..], b"", b"x", b"1-2 r-xp", b"1-2 r-xp 0 0 x /"] {
            assert_eq!(Mapping::parse_executable(line), None);
        }
    }

    #[test]
    fn newlines_in_paths_are_put_back() {
        assert_eq!(unescape(b"/a\\012b\\012").as_ref(), b"/a\nb\n");
        assert_eq!(unescape(b"/a\\01").as_ref(), b"/a\\01");
    }
}
