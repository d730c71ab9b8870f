//! A release as a CoRIM (draft-ietf-rats-corim): in, the bytes of an unsigned, tagged CoRIM with one CoMID; out, a
//! [`Release`]; and back. The subset is written down in `docs/reference-values.cddl`. Whatever is not in it is
//! refused with its place: a reference value that is skipped because nobody understood it may have been the one that
//! forbids.

use std::collections::BTreeMap;

use crate::{
    boot_rules::{BootRules, ImaPolicy},
    error::Unreadable,
    items::{ItemWriter, Items},
    limits::{MAX_BOOT_RULES, MAX_BOOTS, MAX_EXECUTABLES, MAX_FILE, MAX_IMA_POLICIES},
    release::{BootPcrs, Content, Executable, Invalid, Release},
};

/// The profile that fixes what the parts mean (`corim-map`, key 3).
pub(crate) const PROFILE: &str = "tag:countersign.example,2026:release#1";

/// CBOR tag of an unsigned CoRIM.
const TAG_CORIM: u64 = 501;
/// CBOR tag of a CoMID inside a CoRIM.
const TAG_COMID: u64 = 506;
/// CBOR tag of a URI (RFC 8949 §3.4.5.3).
const TAG_URI: u64 = 32;
/// CBOR tag of a time in seconds since the epoch (RFC 8949 §3.4.2).
const TAG_TIME: u64 = 1;
/// SHA-256 in the Named Information Hash Algorithm Registry.
const SHA_256: u64 = 1;

/// CBOR tag of a raw value that is a byte string.
const TAG_RAW: u64 = 560;

/// Measured element that stands for PCR values after boot. Measurements with one element are alternatives.
const BOOT: &str = "boot";
/// Measured element that stands for rules for boots.
const BOOT_RULES: &str = "boot-rules";
/// Measured element that stands for policies that IMA may be given.
const IMA_POLICY: &str = "ima-policy";
/// Measured element that stands for files.
const EXECUTABLE: &str = "executable";

impl Release {
    /// Reads an unsigned CoRIM, from its tag 501 to its end.
    ///
    /// # Errors
    /// [`Unreadable`] with what and where.
    pub fn decode(bytes: &[u8]) -> Result<Self, Unreadable> {
        if bytes.len() > MAX_FILE {
            return Err(Unreadable::TooLarge { what: "bytes of a release", limit: MAX_FILE });
        }
        let mut items = Items::new("CoRIM", bytes)?;
        items.tag(TAG_CORIM, "tag 501 (unsigned CoRIM) is expected")?;
        let corim = CorimMap::decode(&mut items)?;
        let release = decode_comid(corim.comid)?;
        if corim.id != identity(&release) {
            return Err(items.malformed("the CoRIM's id is not product@release of its tag").into());
        }
        Ok(release.valid(corim.not_before, corim.not_after)?)
    }

    /// Writes it as an unsigned CoRIM; the same release always gives the same bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = ItemWriter::default();
        let has_validity = self.valid_from().is_some() || self.retire_at().is_some();
        out.tag(TAG_CORIM).map(if has_validity { 4 } else { 3 });
        out.uint(0).text(&identity(self));
        out.uint(1).array(1).tag(TAG_COMID).bytes(&encode_comid(self));
        out.uint(3).tag(TAG_URI).text(PROFILE);
        if has_validity {
            out.uint(4).map(if self.valid_from().is_some() { 2 } else { 1 });
            if let Some(from) = self.valid_from() {
                out.uint(0).tag(TAG_TIME).uint(from);
            }
            out.uint(1).tag(TAG_TIME).uint(self.retire_at().unwrap_or(Self::NEVER));
        }
        out.finish()
    }
}

/// CoRIM id and CoMID tag-id: product and release, told apart by the first '@'.
fn identity(release: &Release) -> String {
    format!("{}@{}", release.product(), release.name())
}

/// What of `corim-map` is used.
struct CorimMap<'a> {
    id: &'a str,
    comid: &'a [u8],
    not_before: Option<u64>,
    not_after: Option<u64>,
}

impl<'a> CorimMap<'a> {
    fn decode(items: &mut Items<'a>) -> Result<Self, Unreadable> {
        let (mut id, mut comid, mut profile, mut validity) = (None, None, None, (None, None));
        for _ in 0..items.map()? {
            let key = items.key("corim-map")?;
            match key.number {
                0 => id = Some(items.text()?),
                1 => {
                    items.array_of(1, "one tag is expected: a CoMID")?;
                    items.tag(TAG_COMID, "tag 506 (CoMID) is expected; others are not supported")?;
                    comid = Some(items.bytes()?);
                }
                3 => {
                    items.tag(TAG_URI, "a profile URI is expected")?;
                    profile = Some(items.text()?);
                }
                4 => validity = decode_validity(items)?,
                _ => return Err(key.unsupported()),
            }
        }
        if profile != Some(PROFILE) {
            let item = profile.map_or_else(|| "no profile".into(), |other| format!("profile {other:?}"));
            return Err(Unreadable::Unsupported { place: "corim-map", item, at: items.at() });
        }
        let (Some(id), Some(comid)) = (id, comid) else {
            return Err(items.malformed("corim-map lacks id or tags").into());
        };
        Ok(Self { id, comid, not_before: validity.0, not_after: validity.1 })
    }
}

fn decode_validity(items: &mut Items<'_>) -> Result<(Option<u64>, Option<u64>), Unreadable> {
    let (mut not_before, mut not_after) = (None, None);
    for _ in 0..items.map()? {
        let key = items.key("validity-map")?;
        let field = match key.number {
            0 => &mut not_before,
            1 => &mut not_after,
            _ => return Err(key.unsupported()),
        };
        items.tag(TAG_TIME, "a time in seconds (tag 1) is expected")?;
        *field = Some(items.uint()?);
    }
    if not_after.is_none() {
        return Err(items.malformed("validity-map lacks not-after").into());
    }
    Ok((not_before, not_after))
}

fn encode_comid(release: &Release) -> Vec<u8> {
    let mut out = ItemWriter::default();
    out.map(2);
    out.uint(1).map(2).uint(0).text(&identity(release)).uint(1).uint(release.sequence());
    // triples-map: one reference-triple-record, its environment, its measurements.
    out.uint(4).map(1).uint(0).array(1).array(2);
    out.map(1).uint(0);
    match release.product().split_once('/') {
        Some((vendor, model)) => out.map(2).uint(1).text(vendor).uint(2).text(model),
        None => out.map(1).uint(2).text(release.product()),
    };
    encode_measurements(&mut out, release);
    out.finish()
}

fn encode_measurements(out: &mut ItemWriter, release: &Release) {
    let (boots, rules) = (release.boots(), release.boot_rules());
    let (policies, executables) = (release.ima_policies(), release.executables());
    let lengths = [boots.len(), rules.len(), policies.len(), executables.len()];
    out.array(lengths.into_iter().fold(0, usize::saturating_add));
    for boot in boots {
        out.map(2).uint(0).text(BOOT).uint(1).map(1).uint(14).map(boot.pcrs().len());
        for (&index, value) in boot.pcrs() {
            out.uint(index.into()).array(1).array(2).uint(SHA_256).bytes(value);
        }
    }
    for rules in rules {
        out.map(2).uint(0).text(BOOT_RULES).uint(1).map(1).uint(4).tag(TAG_RAW).bytes(&rules.encode());
    }
    for policy in policies {
        out.map(2).uint(0).text(IMA_POLICY).uint(1).map(3);
        out.uint(2).array(1).array(2).uint(SHA_256).bytes(&policy.digest);
        out.uint(4).tag(TAG_RAW).bytes(&policy.encode_flags()).uint(11).text(&policy.path);
    }
    for file in executables {
        out.map(2).uint(0).text(EXECUTABLE).uint(1).map(2);
        out.uint(2).array(1).array(2).uint(SHA_256).bytes(&file.digest);
        out.uint(11).text(&file.path);
    }
}

fn decode_comid(bytes: &[u8]) -> Result<Release, Unreadable> {
    let mut items = Items::new("CoMID", bytes)?;
    let (mut tag, mut triple) = (None, None);
    for _ in 0..items.map()? {
        let key = items.key("concise-mid-tag")?;
        match key.number {
            1 => tag = Some(decode_tag_identity(&mut items)?),
            4 => triple = Some(decode_triples(&mut items)?),
            _ => return Err(key.unsupported()),
        }
    }
    let (Some((tag_id, sequence)), Some((product, measured))) = (tag, triple) else {
        return Err(items.malformed("concise-mid-tag lacks tag-identity or triples").into());
    };
    let name = match tag_id.split_once('@') {
        Some((tagged, name)) if tagged == product => name,
        _ => return Err(items.malformed("the tag-id is not product@release of its environment's class").into()),
    };
    Ok(Release::from_ordered(&product, name, sequence, measured)?)
}

fn decode_tag_identity<'a>(items: &mut Items<'a>) -> Result<(&'a str, u64), Unreadable> {
    let (mut id, mut version) = (None, None);
    for _ in 0..items.map()? {
        let key = items.key("tag-identity-map")?;
        match key.number {
            0 => id = Some(items.text()?),
            1 => version = Some(items.uint()?),
            _ => return Err(key.unsupported()),
        }
    }
    id.zip(version).ok_or_else(|| items.malformed("tag-identity-map lacks tag-id or tag-version").into())
}

fn decode_triples(items: &mut Items<'_>) -> Result<(String, Content), Unreadable> {
    if items.map()? != 1 {
        return Err(items
            .malformed("triples-map holds other than reference-triples, which alone are supported")
            .into());
    }
    let key = items.key("triples-map")?;
    if key.number != 0 {
        return Err(key.unsupported());
    }
    items.array_of(1, "one reference-triple-record is expected")?;
    items.array_of(2, "a reference-triple-record has an environment and its measurements")?;
    let product = decode_environment(items)?;
    let mut measured = Content::default();
    for _ in 0..items.array()? {
        decode_measurement(items, &mut measured)?;
    }
    Ok((product, measured))
}

fn decode_environment(items: &mut Items<'_>) -> Result<String, Unreadable> {
    if items.map()? != 1 {
        return Err(items.malformed("environment-map holds other than a class, which alone is supported").into());
    }
    let key = items.key("environment-map")?;
    if key.number != 0 {
        return Err(key.unsupported());
    }
    let (mut vendor, mut model) = (None, None);
    for _ in 0..items.map()? {
        let key = items.key("class-map")?;
        match key.number {
            1 => vendor = Some(items.text()?),
            2 => model = Some(items.text()?),
            _ => return Err(key.unsupported()),
        }
    }
    let model = model.ok_or_else(|| items.malformed("class-map lacks model"))?;
    if model.contains('/') {
        return Err(items.malformed("the model has a '/'").into());
    }
    Ok(vendor.map_or_else(|| model.to_owned(), |vendor| format!("{vendor}/{model}")))
}

/// Elements stand in the order of [`encode_measurements`]; within each, [`Release::from_ordered`] checks it.
fn decode_measurement(items: &mut Items<'_>, measured: &mut Content) -> Result<(), Unreadable> {
    expect_pairs(items, 2, "a measurement-map has a measured element and its values")?;
    expect_key(items, "measurement-map", 0)?;
    let misplaced = items.malformed("boots, boot rules, IMA policies and executables stand in this order");
    let at = items.at();
    let element = items.text()?;
    expect_key(items, "measurement-map", 1)?;
    let Content { boots, boot_rules, ima_policies, executables } = measured;
    let in_order = match element {
        BOOT => boot_rules.is_empty() && ima_policies.is_empty() && executables.is_empty(),
        BOOT_RULES => ima_policies.is_empty() && executables.is_empty(),
        IMA_POLICY => executables.is_empty(),
        EXECUTABLE => true,
        other => {
            let item = format!("measured element {:?}", other.chars().take(40).collect::<String>());
            return Err(Unreadable::Unsupported { place: "measurement-map", item, at });
        }
    };
    if !in_order {
        return Err(misplaced.into());
    }
    match element {
        BOOT => push(boots, decode_boot(items)?, "boots", MAX_BOOTS),
        BOOT_RULES => push(boot_rules, decode_boot_rules(items)?, "sets of boot rules", MAX_BOOT_RULES),
        IMA_POLICY => push(ima_policies, decode_ima_policy(items)?, "IMA policies", MAX_IMA_POLICIES),
        _ => push(executables, decode_executable(items)?, "executables", MAX_EXECUTABLES),
    }
}

fn push<T>(list: &mut Vec<T>, item: T, what: &'static str, limit: usize) -> Result<(), Unreadable> {
    if list.len() >= limit {
        return Err(Invalid::TooMany { what, limit }.into());
    }
    list.push(item);
    Ok(())
}

fn decode_boot_rules(items: &mut Items<'_>) -> Result<BootRules, Unreadable> {
    expect_pairs(items, 1, "boot rules have a raw value and nothing else")?;
    expect_key(items, "measurement-values-map", 4)?;
    items.tag(TAG_RAW, "a raw value of bytes (tag 560) is expected")?;
    BootRules::decode(items.bytes()?)
}

fn decode_ima_policy(items: &mut Items<'_>) -> Result<ImaPolicy, Unreadable> {
    expect_pairs(items, 3, "an IMA policy has its digest, what it measures, and its path")?;
    expect_key(items, "measurement-values-map", 2)?;
    let digest = decode_digests(items)?;
    expect_key(items, "measurement-values-map", 4)?;
    items.tag(TAG_RAW, "a raw value of bytes (tag 560) is expected")?;
    let measures_kexec = ImaPolicy::decode_flags(items.bytes()?)?;
    expect_key(items, "measurement-values-map", 11)?;
    Ok(ImaPolicy { digest, path: items.text()?.to_owned(), measures_kexec })
}

fn decode_executable(items: &mut Items<'_>) -> Result<Executable, Unreadable> {
    expect_pairs(items, 2, "an executable has its digest and its path")?;
    expect_key(items, "measurement-values-map", 2)?;
    let digest = decode_digests(items)?;
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

/// `digests-type`, of which exactly one SHA-256 digest is supported.
fn decode_digests(items: &mut Items<'_>) -> Result<[u8; 32], Unreadable> {
    items.array_of(1, "one digest is expected")?;
    items.array_of(2, "a digest has an algorithm and a value")?;
    let at = items.at();
    let algorithm = items.uint()?;
    if algorithm != SHA_256 {
        let item = format!("hash algorithm {algorithm}");
        return Err(Unreadable::Unsupported { place: "digest", item, at });
    }
    Ok(items.bytes_of("a SHA-256 digest has 32 bytes")?)
}

fn expect_pairs(items: &mut Items<'_>, pairs: usize, expected: &'static str) -> Result<(), Unreadable> {
    let wrong = items.malformed(expected);
    if items.map()? == pairs { Ok(()) } else { Err(wrong.into()) }
}

fn expect_key(items: &mut Items<'_>, place: &'static str, number: u64) -> Result<(), Unreadable> {
    let key = items.key(place)?;
    if key.number == number { Ok(()) } else { Err(key.unsupported()) }
}

#[cfg(test)]
mod tests {
    use super::{BootRules, PROFILE, encode_comid, identity};
    use crate::{
        boot_rules::{CommandLine, EventKey, EventRule, ImaPolicy, SecureBootRule},
        error::Unreadable,
        items::ItemWriter,
        release::{BootPcrs, Content, Executable, Invalid, Release},
    };

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
        let content = Content { executables: files, boots, boot_rules, ima_policies };
        Release::with_content("acme/gateway", "4.2.0", 1_790_000_000, content).unwrap()
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
        let good = release();
        let bytes = good.encode();
        for at in 0..bytes.len() {
            assert!(Release::decode(&bytes[..at]).is_err());
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[at] ^= 1 << bit;
                assert!(Release::decode(&changed).ok().as_ref() != Some(&good), "byte {at} bit {bit}");
            }
        }
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
            super::decode_comid(&out.finish())
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
        out.uint(2).array(0).uint(3).tag(32).text(PROFILE);
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
        out.uint(3).tag(32).text(PROFILE);
        assert!(matches!(Release::decode(&out.finish()), Err(Unreadable::Malformed(_))));
    }

    #[test]
    fn executables_out_of_order_have_no_second_encoding() {
        let bytes = release().encode();
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
