//! Compressed files: in, their bytes; out, what they unpack to, as a stream or as a file without a name.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read, Seek as _, SeekFrom, Write as _},
};

use super::limits::{BLOCK, MAX_DICTIONARY};

/// How a file is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Compression {
    Gzip,
    Xz,
    Zstd,
    /// Frames, and the older form that the kernel's own build makes.
    Lz4,
}

impl Compression {
    const MAGIC: [(&'static [u8], Self); 5] = [
        (b"\x1f\x8b\x08", Self::Gzip),
        (b"\xfd7zXZ\0", Self::Xz),
        (b"\x28\xb5\x2f\xfd", Self::Zstd),
        (b"\x04\x22\x4d\x18", Self::Lz4),
        (b"\x02\x21\x4c\x18", Self::Lz4),
    ];

    /// What the first bytes of a file say.
    pub(super) fn of(beginning: &[u8]) -> Option<Self> {
        Self::MAGIC.iter().find(|(magic, _)| beginning.starts_with(magic)).map(|(_, compression)| *compression)
    }

    /// Bytes that certainly unpack to the first of what is inside: a whole block, where a form has nothing smaller.
    pub(super) fn first_block(self) -> usize {
        match self {
            Self::Gzip | Self::Xz => 64 << 10,
            Self::Zstd => 256 << 10,
            Self::Lz4 => 9 << 20,
        }
    }

    /// What `input` unpacks to.
    pub(super) fn unpack<'a>(self, input: impl Read + 'a) -> Box<dyn Read + 'a> {
        match self {
            Self::Gzip => Box::new(flate2::read::MultiGzDecoder::new(input)),
            Self::Xz => Box::new(lzma_rust2::XzReader::new_mem_limit(input, true, MAX_DICTIONARY >> 10)),
            Self::Zstd => Box::new(ZstdFrames::Between(Some(BufReader::new(input)))),
            Self::Lz4 => Box::new(lz4_flex::frame::FrameDecoder::new(input)),
        }
    }
}

/// One frame after the other: the decoder ends with the first.
enum ZstdFrames<R: BufRead> {
    Between(Option<R>),
    Within(Box<ruzstd::decoding::StreamingDecoder<R, ruzstd::decoding::FrameDecoder>>),
}

impl<R: BufRead> Read for ZstdFrames<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            *self = match self {
                Self::Between(input) => {
                    let Some(mut input) = input.take() else { return Ok(0) };
                    if input.fill_buf()?.is_empty() {
                        return Ok(0);
                    }
                    let frame =
                        ruzstd::decoding::StreamingDecoder::new_with_max_window_size(input, MAX_DICTIONARY.into());
                    Self::Within(Box::new(frame.map_err(io::Error::other)?))
                }
                Self::Within(frame) => {
                    let read = frame.read(out)?;
                    if read > 0 || out.is_empty() {
                        return Ok(read);
                    }
                    let Self::Within(frame) = std::mem::replace(self, Self::Between(None)) else { return Ok(0) };
                    Self::Between(Some(frame.into_inner()))
                }
            }
        }
    }
}

/// Keeps what `input` has in a file that ends with this process; zeros take no room. More than `limit` is an error.
pub(super) fn to_file(mut input: impl Read, limit: u64) -> io::Result<File> {
    let mut file = tempfile::tempfile()?;
    let mut block = vec![0; BLOCK];
    let mut length = 0_u64;
    loop {
        let filled = fill(&mut input, &mut block)?;
        if filled == 0 {
            break;
        }
        length = length.saturating_add(filled as u64);
        if length > limit {
            return Err(io::Error::other(format!("unpacks to more than {limit} bytes")));
        }
        let bytes = &block[..filled];
        if bytes.iter().all(|&byte| byte == 0) {
            file.seek(SeekFrom::Current(filled as i64))?;
        } else {
            file.write_all(bytes)?;
        }
    }
    file.set_len(length)?;
    Ok(file)
}

/// Reads until `block` is full or the input ends.
pub(super) fn fill(input: &mut dyn Read, block: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < block.len() {
        match input.read(&mut block[filled..]) {
            Ok(0) => break,
            Ok(n) => filled += n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
