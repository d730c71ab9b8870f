//! Parts of a release beside its executables.

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ImageKind {
    Kernel,
    Initrd,
    Uki,
    Loader,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BootImage {
    pub(crate) kind: ImageKind,
    pub(crate) digest: [u8; 32],
    pub(crate) authenticode: Option<[u8; 32]>,
    pub(crate) sections: Vec<(String, [u8; 32])>,
    pub(crate) path: String,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct FurtherDigests {
    pub(crate) sha1: Option<[u8; 20]>,
    pub(crate) sha384: Option<[u8; 48]>,
    pub(crate) sha512: Option<[u8; 64]>,
}
