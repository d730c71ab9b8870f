//! A release: one reference triple, whose measured elements are the parts of the release.

use std::collections::BTreeMap;

use super::{
    Comid, SHA_256, TAG_BYTES, begin_comid, decode_digests, decode_element, decode_measured, decode_raw, decode_sha256,
    encode, encode_class, encode_digests, expect_key, expect_pairs, identity, unknown_element,
};
use crate::{
    boot_rules::{BootRules, ImaPolicy},
    document::{Document, Kind},
    error::Unreadable,
    items::{ItemWriter, Items},
    limits::{MAX_BOOT_RULES, MAX_BOOTS, MAX_EXECUTABLES, MAX_IMA_POLICIES, MAX_IMAGES, MAX_SECTIONS},
    release::{BootImage, BootPcrs, Content, Executable, FurtherDigests, ImageKind, Invalid, Release},
};

/// Number of reference triples in `triples-map`.
const REFERENCE_TRIPLES: u64 = 0;
/// SHA-384 and SHA-512 in the Named Information Hash Algorithm Registry, which has no SHA-1: that one goes by its name.
const SHA_384: u64 = 7;
const SHA_512: u64 = 8;
const SHA_1: &str = "sha-1";

/// For how long files of this release and of the one before may run beside each other.
const UPDATE_WINDOW: &str = "update-window";
/// PCR values after boot. Measurements with one element are alternatives.
const BOOT: &str = "boot";
/// Rules for boots.
const BOOT_RULES: &str = "boot-rules";
/// Policies that IMA may be given.
const IMA_POLICY: &str = "ima-policy";
/// What boots.
const BOOT_IMAGE: &str = "boot-image";
/// Files.
const EXECUTABLE: &str = "executable";
/// The order in which they stand.
const ORDER: [&str; 6] = [UPDATE_WINDOW, BOOT, BOOT_RULES, IMA_POLICY, BOOT_IMAGE, EXECUTABLE];

impl Release {
    /// Reads an unsigned CoRIM, from its tag 501 to its end.
    ///
    /// # Errors
    /// [`Unreadable`] with what and where; of another kind of document, too.
    pub fn decode(bytes: &[u8]) -> Result<Self, Unreadable> {
        match super::decode(bytes)? {
            Document::Release(release) => Ok(release),
            other => {
                let item = format!("{} where a release is expected", other.kind());
                Err(Unreadable::Unsupported { place: "corim-map", item, at: 0 })
            }
        }
    }

    /// Writes it as an unsigned CoRIM; the same release always gives the same bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let id = identity(Kind::Release, self.product(), self.name());
        encode(Kind::Release, &id, &encode_comid(self), (self.valid_from(), self.retire_at()))
    }
}

fn encode_comid(release: &Release) -> Vec<u8> {
    let mut out = ItemWriter::default();
    let id = identity(Kind::Release, release.product(), release.name());
    begin_comid(&mut out, &id, release.sequence(), REFERENCE_TRIPLES);
    // One reference-triple-record: its environment, its measurements.
    out.array(1).array(2).map(1).uint(0);
    encode_class(&mut out, release.product());
    encode_measurements(&mut out, release);
    out.finish()
}

fn encode_measurements(out: &mut ItemWriter, release: &Release) {
    let (boots, rules) = (release.boots(), release.boot_rules());
    let (policies, images, executables) = (release.ima_policies(), release.images(), release.executables());
    let window = usize::from(release.update_window().is_some());
    let lengths = [window, boots.len(), rules.len(), policies.len(), images.len(), executables.len()];
    out.array(lengths.into_iter().fold(0, usize::saturating_add));
    if let Some(seconds) = release.update_window() {
        let mut raw = ItemWriter::default();
        raw.uint(seconds);
        out.map(2).uint(0).text(UPDATE_WINDOW).uint(1).map(1).uint(4).tag(TAG_BYTES).bytes(&raw.finish());
    }
    for boot in boots {
        out.map(2).uint(0).text(BOOT).uint(1).map(1).uint(14).map(boot.pcrs().len());
        for (&index, value) in boot.pcrs() {
            out.uint(index.into());
            encode_digests(out, value);
        }
    }
    for rules in rules {
        out.map(2).uint(0).text(BOOT_RULES).uint(1).map(1).uint(4).tag(TAG_BYTES).bytes(&rules.encode());
    }
    for policy in policies {
        out.map(2).uint(0).text(IMA_POLICY).uint(1).map(3).uint(2);
        encode_digests(out, &policy.digest);
        out.uint(4).tag(TAG_BYTES).bytes(&policy.encode_flags()).uint(11).text(&policy.path);
    }
    for image in images {
        out.map(2).uint(0).text(BOOT_IMAGE).uint(1).map(3).uint(2);
        encode_digests(out, &image.digest);
        out.uint(4).tag(TAG_BYTES).bytes(&encode_image(image)).uint(11).text(&image.path);
    }
    for file in executables {
        out.map(2).uint(0).text(EXECUTABLE).uint(1).map(2).uint(2);
        encode_all_digests(out, &file.digest, release.further_digests().get(&file.digest));
        out.uint(11).text(&file.path);
    }
}

fn encode_all_digests(out: &mut ItemWriter, digest: &[u8; 32], further: Option<&FurtherDigests>) {
    let none = FurtherDigests::default();
    let FurtherDigests { sha1, sha384, sha512 } = further.unwrap_or(&none);
    let count = [sha1.is_some(), sha384.is_some(), sha512.is_some()].into_iter().filter(|is| *is).count();
    out.array(count.saturating_add(1)).array(2).uint(SHA_256).bytes(digest);
    if let Some(sha384) = sha384 {
        out.array(2).uint(SHA_384).bytes(sha384);
    }
    if let Some(sha512) = sha512 {
        out.array(2).uint(SHA_512).bytes(sha512);
    }
    if let Some(sha1) = sha1 {
        out.array(2).text(SHA_1).bytes(sha1);
    }
}

/// `{ 0: kind, ? 1: Authenticode digest, ? 2: [ + [ name, digest ] ] }`.
fn encode_image(image: &BootImage) -> Vec<u8> {
    let mut out = ItemWriter::default();
    let pairs = [true, image.authenticode.is_some(), !image.sections.is_empty()];
    out.map(pairs.into_iter().filter(|is| *is).count()).uint(0).text(image.kind.name());
    if let Some(authenticode) = &image.authenticode {
        out.uint(1).bytes(authenticode);
    }
    if !image.sections.is_empty() {
        out.uint(2).array(image.sections.len());
        for (name, digest) in &image.sections {
            out.array(2).text(name).bytes(digest);
        }
    }
    out.finish()
}

pub(super) fn decode(tag: &Comid<'_>, from: Option<u64>, until: Option<u64>) -> Result<Release, Unreadable> {
    let mut items = tag.triples_of(REFERENCE_TRIPLES)?;
    let (product, count) = decode_measured(&mut items)?;
    let mut parts = Parts::default();
    for _ in 0..count {
        parts.take(&mut items)?;
    }
    let name = tag.name(Kind::Release, &product)?;
    let release = Release::from_ordered(&product, name, tag.version, parts.content)?;
    Ok(release.with_update_window(parts.update_window)?.valid(from, until)?)
}

/// What has been read of a release. Elements stand in their [`ORDER`]; within each, [`Release::from_ordered`] checks it.
#[derive(Default)]
struct Parts {
    content: Content,
    update_window: Option<u64>,
    /// Position in [`ORDER`] of the last element.
    last: usize,
}

impl Parts {
    fn take(&mut self, items: &mut Items<'_>) -> Result<(), Unreadable> {
        let misplaced = items.malformed(
            "update window, boots, boot rules, IMA policies, boot images and executables stand in this order",
        );
        let (element, at) = decode_element(items)?;
        let position = ORDER.iter().position(|known| *known == element);
        let position = position.ok_or_else(|| unknown_element(element, at))?;
        if position < self.last || (element == UPDATE_WINDOW && self.update_window.is_some()) {
            return Err(misplaced.into());
        }
        self.last = position;
        let Content { executables, boots, boot_rules, ima_policies, images, further_digests } = &mut self.content;
        match element {
            UPDATE_WINDOW => {
                self.update_window = Some(decode_update_window(items)?);
                Ok(())
            }
            BOOT => push(boots, decode_boot(items)?, "boots", MAX_BOOTS),
            BOOT_RULES => push(boot_rules, decode_boot_rules(items)?, "sets of boot rules", MAX_BOOT_RULES),
            IMA_POLICY => push(ima_policies, decode_ima_policy(items)?, "IMA policies", MAX_IMA_POLICIES),
            BOOT_IMAGE => push(images, decode_image(items)?, "boot images", MAX_IMAGES),
            _ => push(executables, decode_executable(items, further_digests)?, "executables", MAX_EXECUTABLES),
        }
    }
}

fn push<T>(list: &mut Vec<T>, item: T, what: &'static str, limit: usize) -> Result<(), Unreadable> {
    if list.len() >= limit {
        return Err(Invalid::TooMany { what, limit }.into());
    }
    list.push(item);
    Ok(())
}

fn decode_update_window(items: &mut Items<'_>) -> Result<u64, Unreadable> {
    expect_pairs(items, 1, "an update window has a raw value and nothing else")?;
    let mut raw = Items::new("update window", decode_raw(items)?)?;
    Ok(raw.uint()?)
}

fn decode_boot_rules(items: &mut Items<'_>) -> Result<BootRules, Unreadable> {
    expect_pairs(items, 1, "boot rules have a raw value and nothing else")?;
    BootRules::decode(decode_raw(items)?)
}

fn decode_ima_policy(items: &mut Items<'_>) -> Result<ImaPolicy, Unreadable> {
    expect_pairs(items, 3, "an IMA policy has its digest, what it measures, and its path")?;
    expect_key(items, "measurement-values-map", 2)?;
    let digest = decode_digests(items)?;
    let measures_kexec = ImaPolicy::decode_flags(decode_raw(items)?)?;
    expect_key(items, "measurement-values-map", 11)?;
    Ok(ImaPolicy { digest, path: items.text()?.to_owned(), measures_kexec })
}

fn decode_image(items: &mut Items<'_>) -> Result<BootImage, Unreadable> {
    expect_pairs(items, 3, "a boot image has its digest, what is in it, and its path")?;
    expect_key(items, "measurement-values-map", 2)?;
    let digest = decode_digests(items)?;
    let (kind, authenticode, sections) = decode_inside(decode_raw(items)?)?;
    expect_key(items, "measurement-values-map", 11)?;
    Ok(BootImage { digest, kind, authenticode, sections, path: items.text()?.to_owned() })
}

type Inside = (ImageKind, Option<[u8; 32]>, Vec<(String, [u8; 32])>);

fn decode_inside(bytes: &[u8]) -> Result<Inside, Unreadable> {
    let mut items = Items::new("boot image", bytes)?;
    let (mut kind, mut authenticode, mut sections) = (None, None, Vec::new());
    for _ in 0..items.map()? {
        let key = items.key("boot-image")?;
        match key.number {
            0 => {
                let unknown = items.malformed("a boot image is a kernel, an initrd, a uki or a loader");
                let name = items.text()?;
                kind = Some(ImageKind::ALL.into_iter().find(|kind| kind.name() == name).ok_or(unknown)?);
            }
            1 => authenticode = Some(items.bytes_of("an Authenticode digest has 32 bytes")?),
            2 => sections = decode_sections(&mut items)?,
            _ => return Err(key.unsupported()),
        }
    }
    let kind = kind.ok_or_else(|| items.malformed("a boot image lacks its kind"))?;
    Ok((kind, authenticode, sections))
}

fn decode_sections(items: &mut Items<'_>) -> Result<Vec<(String, [u8; 32])>, Unreadable> {
    let count = items.array()?;
    if count == 0 {
        return Err(items.malformed("an image without sections has no list of them").into());
    }
    if count > MAX_SECTIONS {
        return Err(Invalid::TooMany { what: "sections of one image", limit: MAX_SECTIONS }.into());
    }
    let mut sections = Vec::with_capacity(count);
    for _ in 0..count {
        items.array_of(2, "a section has a name and a digest")?;
        let name = items.text()?.to_owned();
        sections.push((name, items.bytes_of("a SHA-256 digest has 32 bytes")?));
    }
    Ok(sections)
}

fn decode_executable(
    items: &mut Items<'_>,
    all: &mut BTreeMap<[u8; 32], FurtherDigests>,
) -> Result<Executable, Unreadable> {
    expect_pairs(items, 2, "an executable has its digest and its path")?;
    expect_key(items, "measurement-values-map", 2)?;
    let wrong = items.malformed("SHA-256 comes first, then SHA-384, SHA-512 and SHA-1, each at most once");
    let count = items.array()?;
    if !(1..=4).contains(&count) {
        return Err(wrong.into());
    }
    let digest = decode_sha256(items)?;
    let mut further = FurtherDigests::default();
    for _ in 1..count {
        items.array_of(2, "a digest has an algorithm and a value")?;
        let FurtherDigests { sha1, sha384, sha512 } = &mut further;
        if items.is_text() {
            match items.text()? {
                SHA_1 if sha1.is_none() => *sha1 = Some(items.bytes_of("a SHA-1 digest has 20 bytes")?),
                _ => return Err(wrong.into()),
            }
            continue;
        }
        match items.uint()? {
            SHA_384 if sha384.is_none() && sha512.is_none() && sha1.is_none() => {
                *sha384 = Some(items.bytes_of("a SHA-384 digest has 48 bytes")?);
            }
            SHA_512 if sha512.is_none() && sha1.is_none() => {
                *sha512 = Some(items.bytes_of("a SHA-512 digest has 64 bytes")?);
            }
            _ => return Err(wrong.into()),
        }
    }
    if count > 1 && all.insert(digest, further).is_some() {
        return Err(Invalid::Order("executables").into());
    }
    expect_key(items, "measurement-values-map", 11)?;
    Ok(Executable { digest, path: items.text()?.to_owned() })
}

fn decode_boot(items: &mut Items<'_>) -> Result<BootPcrs, Unreadable> {
    expect_pairs(items, 1, "a boot has its integrity-registers and nothing else")?;
    expect_key(items, "measurement-values-map", 14)?;
    let mut pcrs = BTreeMap::new();
    for _ in 0..items.map()? {
        let register = items.key("integrity-registers")?.number;
        let index = u8::try_from(register).map_err(|_| Invalid::Pcr(register))?;
        if !BootPcrs::may_hold(register) {
            return Err(Invalid::Pcr(register).into());
        }
        pcrs.insert(index, decode_digests(items)?);
    }
    Ok(BootPcrs::new(pcrs)?)
}

#[cfg(test)]
mod tests {
    use super::{super::profile, BootRules, FurtherDigests, ImageKind, encode_comid};
    use crate::{
        boot_rules::{CommandLine, EventKey, EventRule, ImaPolicy, SecureBootRule},
        corim::tests::has_one_encoding,
        document::{Document, Kind},
        error::Unreadable,
        items::ItemWriter,
        release::{BootImage, BootPcrs, Content, Executable, Invalid, Release},
    };

    fn identity(release: &Release) -> String {
        super::identity(Kind::Release, release.product(), release.name())
    }

    fn rules(event_type: u32) -> BootRules {
        let sequences = [vec![[8; 32], [9; 32]], vec![]].into();
        let any = EventRule::AnyOf { digests: [[7; 32]].into(), at_least: 0, at_most: 2 };
        let events = [
            (EventKey { pcr: 0, event_type }, EventRule::Sequences(sequences)),
            (EventKey { pcr: 5, event_type: 5 }, any),
            (EventKey { pcr: 5, event_type: 6 }, EventRule::Unjudged),
        ];
        let secure_boot = SecureBootRule { required: true, pk: Some([[6; 32]].into()), ..SecureBootRule::default() };
        let lines = ["quiet root=*", "single"].map(|line| CommandLine::parse(line).unwrap());
        BootRules::new(events.into(), (0..8).collect(), secure_boot).unwrap().with_command_lines(lines).unwrap()
    }

    fn policy(byte: u8) -> ImaPolicy {
        ImaPolicy { digest: [byte; 32], path: format!("/etc/ima/{byte}"), measures_kexec: byte == 1 }
    }

    fn release() -> Release {
        let files = (0..3).map(|i| Executable { digest: [i; 32], path: format!("/usr/bin/{i}") }).collect::<Vec<_>>();
        let boots = vec![
            BootPcrs::new([(0, [1; 32]), (7, [2; 32])].into()).unwrap(),
            BootPcrs::new([(0, [3; 32])].into()).unwrap(),
        ];
        let (boot_rules, ima_policies) = (vec![rules(8), rules(7)], vec![policy(1), policy(0)]);
        let image = |i: u8, sections: &[&str]| BootImage {
            digest: [i; 32],
            kind: ImageKind::ALL[usize::from(i)],
            authenticode: (i > 1).then_some([i; 32]),
            sections: sections.iter().map(|name| ((*name).to_owned(), [i; 32])).collect(),
            path: format!("/boot/{i}"),
        };
        let images = vec![image(0, &[]), image(2, &[".linux", ".initrd"]), image(3, &[])];
        let further = |i: u8| FurtherDigests {
            sha1: (i != 1).then_some([i; 20]),
            sha384: (i == 2).then_some([i; 48]),
            sha512: Some([i; 64]),
        };
        let further_digests = [1, 2].map(|i| ([i; 32], further(i))).into();
        let content = Content { executables: files, boots, boot_rules, ima_policies, images, further_digests };
        let release = Release::with_content("acme/gateway", "4.2.0", 1_790_000_000, content).unwrap();
        release.with_update_window(Some(3600)).unwrap()
    }

    #[test]
    fn what_is_written_is_read_back_and_passes_the_strict_scan() {
        for (from, until) in [(None, None), (Some(1), None), (None, Some(9)), (Some(1), Some(9))] {
            let release = release().valid(from, until).unwrap();
            let bytes = release.encode();
            evidence::cbor::check_deterministic("CoRIM", &bytes).unwrap();
            assert_eq!(Release::decode(&bytes).unwrap(), release);
        }
    }

    #[test]
    fn every_cut_and_every_flipped_bit_is_either_refused_or_another_release() {
        has_one_encoding(&Document::Release(release()));
    }

    #[test]
    fn a_release_of_boot_rules_alone_is_one_and_of_ima_policies_alone_is_none() {
        let content = Content { boot_rules: vec![rules(8)], ..Content::default() };
        let release = Release::with_content("p", "1", 1, content).unwrap();
        assert_eq!(Release::decode(&release.encode()), Ok(release));
        let content = Content { ima_policies: vec![policy(1)], ..Content::default() };
        assert_eq!(Release::with_content("p", "1", 1, content), Err(Invalid::Empty));
    }

    #[test]
    fn measured_elements_out_of_order_have_no_second_encoding() {
        let written = |elements: [&str; 2]| {
            let mut out = ItemWriter::default();
            out.map(2).uint(1).map(2).uint(0).text("p@1").uint(1).uint(1);
            out.uint(4).map(1).uint(0).array(1).array(2).map(1).uint(0).map(1).uint(2).text("p").array(2);
            for element in elements {
                out.map(2).uint(0).text(element).uint(1);
                match element {
                    "boot" => out.map(1).uint(14).map(1).uint(0).array(1).array(2).uint(1).bytes(&[1; 32]),
                    "boot-rules" => out.map(1).uint(4).tag(560).bytes(&rules(8).encode()),
                    "ima-policy" => out
                        .map(3)
                        .uint(2)
                        .array(1)
                        .array(2)
                        .uint(1)
                        .bytes(&[3; 32])
                        .uint(4)
                        .tag(560)
                        .bytes(&policy(1).encode_flags())
                        .uint(11)
                        .text("/p"),
                    _ => out.map(2).uint(2).array(1).array(2).uint(1).bytes(&[2; 32]).uint(11).text("/x"),
                };
            }
            let comid = out.finish();
            Release::decode(&super::encode(Kind::Release, "p@1", &comid, (None, None)))
        };
        let order = ["boot", "boot-rules", "ima-policy", "executable"];
        for (i, first) in order.into_iter().enumerate() {
            for later in &order[i + 1..] {
                assert!(written([first, *later]).is_ok(), "{first} {later}");
                assert!(matches!(written([*later, first]), Err(Unreadable::Malformed(_))), "{later} {first}");
            }
        }
    }

    #[test]
    fn an_unknown_key_is_named_with_its_place() {
        let release = release();
        let mut out = ItemWriter::default();
        out.tag(501).map(4).uint(0).text(&identity(&release));
        out.uint(1).array(1).tag(506).bytes(&encode_comid(&release));
        out.uint(2).array(0).uint(3).tag(32).text(profile(Kind::Release));
        let error = Release::decode(&out.finish()).unwrap_err();
        assert!(
            matches!(error, Unreadable::Unsupported { place: "corim-map", ref item, .. } if item == "key 2"),
            "{error}"
        );
    }

    #[test]
    fn another_profile_is_refused() {
        let release = release();
        let mut out = ItemWriter::default();
        out.tag(501).map(3).uint(0).text(&identity(&release));
        out.uint(1).array(1).tag(506).bytes(&encode_comid(&release));
        out.uint(3).tag(32).text("tag:example.com,2026:other");
        assert!(matches!(Release::decode(&out.finish()), Err(Unreadable::Unsupported { place: "corim-map", .. })));
    }

    #[test]
    fn an_id_that_names_another_release_is_refused() {
        let release = release();
        let mut out = ItemWriter::default();
        out.tag(501).map(3).uint(0).text("acme/gateway@4.2.1");
        out.uint(1).array(1).tag(506).bytes(&encode_comid(&release));
        out.uint(3).tag(32).text(profile(Kind::Release));
        assert!(matches!(Release::decode(&out.finish()), Err(Unreadable::Malformed(_))));
    }

    #[test]
    fn executables_out_of_order_have_no_second_encoding() {
        let Content { executables, boots, .. } = release().into_content();
        let bytes = Release::new("acme/gateway", "4.2.0", 1, executables, boots).unwrap().encode();
        // Swap the digests of the last two executables; everything else stays.
        let find = |digest: [u8; 32]| bytes.windows(32).position(|window| window == digest).unwrap();
        let (a, b) = (find([1; 32]), bytes.len() - bytes.iter().rev().position(|&byte| byte == 2).unwrap());
        let last = bytes[..b].windows(32).rposition(|window| window == [2; 32]).unwrap();
        let mut swapped = bytes.clone();
        // The first [1; 32] is a PCR; the executable's follows.
        let a = bytes[a + 32..].windows(32).position(|window| window == [1; 32]).unwrap() + a + 32;
        swapped[a..a + 32].fill(2);
        swapped[last..last + 32].fill(1);
        assert_eq!(Release::decode(&swapped), Err(Unreadable::Invalid(Invalid::Order("executables"))));
    }
}
