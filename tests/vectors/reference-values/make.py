#!/usr/bin/env python3
"""Makes the files of this folder, the same ones each time: an implementation of docs/reference-values.cddl that shares
no code with the product. Needs the Python package `cryptography`. Test keys only."""

import hashlib
import json
import pathlib

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

HERE = pathlib.Path(__file__).parent
PROFILE = "tag:countersign.example,2026:release#1"


class Tag:
    def __init__(self, number, value):
        self.number, self.value = number, value


def head(major, n):
    for info, size in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if n < 24:
            return bytes([major << 5 | n])
        if n < 1 << 8 * size:
            return bytes([major << 5 | info]) + n.to_bytes(size, "big")
    raise ValueError(n)


def cbor(value):
    if value is None:
        return b"\xf6"
    if isinstance(value, bool):
        return b"\xf5" if value else b"\xf4"
    if isinstance(value, int):
        return head(0, value) if value >= 0 else head(1, -1 - value)
    if isinstance(value, bytes):
        return head(2, len(value)) + value
    if isinstance(value, str):
        return head(3, len(value.encode())) + value.encode()
    if isinstance(value, list):
        return head(4, len(value)) + b"".join(map(cbor, value))
    if isinstance(value, dict):
        pairs = sorted((cbor(key), cbor(item)) for key, item in value.items())
        return head(5, len(pairs)) + b"".join(key + item for key, item in pairs)
    if isinstance(value, Tag):
        return head(6, value.number) + cbor(value.value)
    raise TypeError(value)


class Key:
    def __init__(self, scalar):
        self.private = ec.derive_private_key(scalar, ec.SECP256R1())
        public = self.private.public_key()
        der, pem = serialization.Encoding.DER, serialization.Encoding.PEM
        spki = serialization.PublicFormat.SubjectPublicKeyInfo
        self.id = hashlib.sha256(public.public_bytes(der, spki)).digest()
        self.pem = public.public_bytes(pem, spki).decode()

    def sign1(self, corim, role, attached=False, extra=None):
        header = {1: -7, 3: "application/rim+cbor", 4: self.id, 8: cbor({0: {0: role}})} | (extra or {})
        protected = cbor(header)
        message = cbor(["Signature1", protected, b"", corim])
        algorithm = ec.ECDSA(hashes.SHA256(), deterministic_signing=True)
        r, s = decode_dss_signature(self.private.sign(message, algorithm))
        signature = r.to_bytes(32, "big") + s.to_bytes(32, "big")
        return cbor(Tag(18, [protected, {}, corim if attached else None, signature]))


def digest(value):
    return [[1, value]]


def hashed(*texts):
    return sorted(hashlib.sha256(text.encode()).digest() for text in texts)


RULES = {
    1: [
        [0, 8, [0, [hashed("firmware 1"), hashed("firmware 2")]]],
        [1, 0x80000002, [2]],
        [4, 0x80000003, [0, [[], hashed("loader") + hashed("kernel")]]],
        [5, 0x80000007, [1, hashed("called", "returned"), 1, 3]],
        [9, 6, [0, [hashed("initrd")]]],
    ],
    2: list(range(8)),
    3: {0: True, 1: hashed("PK"), 2: hashed("KEK"), 3: hashed("db 1", "db 2"), 4: hashed("dbx 1", "dbx 2", "dbx 3")},
    4: ["quiet root=/dev/sda2", "quiet root=PARTUUID=*"],
    5: {0: "6.1.0-50-cloud-amd64", 1: False, 2: 2, 3: 1},
    6: 0,
}
RULES[1][0][2][1].sort()


def boot_rules(change=None):
    return {0: "boot-rules", 1: {4: Tag(560, cbor(RULES | (change or {})))}}


POLICY = {0: "ima-policy", 1: {2: [[1, hashed("policy")[0]]], 4: Tag(560, cbor({0: True})), 11: "/etc/ima/ima-policy"}}


WINDOW = {0: "update-window", 1: {4: Tag(560, cbor(1209600))}}
IMAGE = {
    0: "boot-image",
    1: {
        2: digest(b"\x44" * 32),
        4: Tag(560, cbor({0: "uki", 1: b"\x55" * 32, 2: [[".linux", b"\x66" * 32], [".initrd", b"\x77" * 32]]})),
        11: "/boot/efi/gateway.efi",
    },
}


def digests_of(value, further):
    more = [[7, b"\x38" * 48], [8, b"\x51" * 64], ["sha-1", b"\x01" * 20]] if further else []
    return digest(value) + more


def corim(change_corim=None, change_comid=None, values=None, rules=None, last=None, first=None, further=False):
    name = "acme/gateway@4.2.0"
    files = sorted((hashlib.sha256(path.encode()).digest(), path) for path in ("/usr/bin/gateway", "/usr/lib/libgw.so"))
    measurements = list(first or [])
    measurements += [{0: "boot", 1: {14: {0: digest(b"\x11" * 32), 4: digest(b"\x22" * 32), 7: digest(b"\x33" * 32)}}}]
    measurements += rules or []
    measurements += [{0: "executable", 1: {2: digests_of(value, further), 11: path} | (values or {})} for value, path in files]
    measurements += last or []
    comid = {1: {0: name, 1: 42}, 4: {0: [[{0: {1: "acme", 2: "gateway"}}, measurements]]}} | (change_comid or {})
    body = {
        0: name,
        1: [Tag(506, cbor(comid))],
        3: Tag(32, PROFILE),
        4: {0: Tag(1, 1790000000), 1: Tag(1, 4000000000)},
    }
    return cbor(Tag(501, body | (change_corim or {})))


def document(profile, product, name, version, triples, expires=None):
    """A list or a notice; `product` as the class of its environment has it."""
    called = f"{product}@{profile}:{name}"
    comid = {1: {0: called, 1: version}, 4: triples}
    body = {0: called, 1: [Tag(506, cbor(comid))], 3: Tag(32, f"tag:countersign.example,2026:{profile}#1")}
    if expires:
        body[4] = {1: Tag(1, expires)}
    return cbor(Tag(501, body))


def in_class(product):
    vendor, _, model = product.rpartition("/")
    return {1: vendor, 2: model} if vendor else {2: model}


def endorsements(product="acme/gateway", serials=("SN 1", "SN 2", ""), order=1):
    keys = sorted(hashlib.sha256(f"ek {n}".encode()).digest() for n in range(len(serials)))[::order]
    entries = [
        [{0: in_class(product)} | ({1: Tag(560, serial.encode())} if serial else {}), [Tag(557, [1, key])]]
        for key, serial in zip(keys, serials)
    ]
    return document("endorsements", product, "line-1", 7, {2: entries}, 4000000000)


def reason(why, advisory=None):
    return Tag(560, cbor({0: why} | ({1: advisory} if advisory else {})))


MINIMUM = {0: "minimum", 1: {0: {0: "4.2.0"}, 1: Tag(553, 42)}}
REVOKED = {0: "revoked", 1: {0: {0: "4.1.0"}, 4: reason("remote code execution", "CVE-2026-1")}}
BAD = {0: "known-bad", 1: {2: [[1, hashed("malware")[0]]], 4: reason("malware", "CVE-2026-2")}}


def notice(product="acme/*", parts=(MINIMUM, REVOKED, BAD)):
    return document("notice", product, "psirt", 3, {0: [[{0: in_class(product)}, list(parts)]]}, 4000000000)


def bundle(payload, *signatures):
    return cbor(["countersign-release", payload, list(signatures)])


maker, importer, late, elsewhere, stranger = (Key(n) for n in (11, 12, 13, 14, 15))
TRUST = [
    ("Acme Gateways", "manufacturer", maker, ["acme/*"], None),
    ("Ports and Co", "importer", importer, ["*"], "2099-01-01T00:00:00Z"),
    ("Formerly trusted", "distributor", late, ["*"], "2020-01-01T00:00:00Z"),
    ("Other fleet", "operator", elsewhere, ["other/*"], None),
]
good = corim()
by_maker = maker.sign1(good, "manufacturer")


def attached(**content):
    return maker.sign1(corim(**content), "manufacturer", attached=True)


def foreign():
    """In the shapes of other projects: an OID as profile, language, entities, flags, a CoSWID, values nobody knows."""
    values = {0: {0: "1.2.3", 1: 16384}, 1: Tag(552, 7), 2: [["sha-256", b"\x77" * 32]], 3: {3: False}, 99: [1, 2]}
    measured = [{0: Tag(37, bytes(16)), 1: values}, {0: Tag(601, {1: "BL"}), 1: {2: digest(b"\x78" * 32)}}]
    comid = {
        0: "en-GB",
        1: {0: Tag(37, bytes(range(16))), 1: 0},
        2: [{0: "ACME Ltd.", 1: Tag(32, "https://acme.example"), 2: [0, 1]}],
        4: {0: [[{0: {0: Tag(600, bytes(32)), 1: "ACME", 2: "RoadRunner"}}, measured]]},
    }
    body = {0: "acme-1", 1: [Tag(506, cbor(comid)), Tag(505, cbor({0: "swid"}))], 3: Tag(111, bytes.fromhex("2b0601"))}
    return cbor(Tag(501, body))


LIST, NOTICE, NOTICE_PROFILE = endorsements(), notice(), "tag:countersign.example,2026:notice#1"
forged = bytearray(by_maker)
forged[-1] ^= 1
FILES = {
    "one-signer.signed": (bundle(good, by_maker), 0, ""),
    "two-signers.signed": (bundle(good, by_maker, importer.sign1(good, "importer")), 0, ""),
    "attached.signed": (maker.sign1(good, "manufacturer", attached=True), 0, ""),
    "unsigned.corim": (good, 6, "not signed"),
    "bad-signature.signed": (bundle(good, bytes(forged)), 6, "does not hold"),
    "moved-signature.signed": (bundle(corim({4: {1: Tag(1, 4000000001)}}), by_maker), 6, "does not hold"),
    "untrusted.signed": (bundle(good, by_maker, stranger.sign1(good, "importer")), 6, "untrusted key"),
    "wrong-role.signed": (bundle(good, maker.sign1(good, "importer")), 6, "wrong role"),
    "expired-signer.signed": (bundle(good, late.sign1(good, "distributor")), 6, "ended"),
    "other-product.signed": (bundle(good, elsewhere.sign1(good, "operator")), 6, "not trusted for the product"),
    "signed-twice.signed": (bundle(good, by_maker, by_maker), 6, "one key signed twice"),
    "more-in-header.signed": (bundle(good, maker.sign1(good, "manufacturer", extra={99: 1})), 6, "protected header"),
    "dependent-rims.signed": (maker.sign1(corim({2: []}), "manufacturer", True), 6, "corim-map holds key 2"),
    "linked-tags.signed": (maker.sign1(corim(change_comid={3: []}), "manufacturer", True), 6, "concise-mid-tag holds key 3"),
    "masked-value.signed": (maker.sign1(corim(values={5: b"\0"}), "manufacturer", True), 6, "its digest and its path"),
    "other-profile.signed": (maker.sign1(corim({3: Tag(32, "tag:x,2026:y")}), "manufacturer", True), 6, "profile"),
    "boot-rules.signed": (attached(rules=[boot_rules(), POLICY]), 0, ""),
    "rules-after-files.signed": (attached(last=[boot_rules()]), 6, "stand in this order"),
    "unordered-rules.signed": (attached(rules=[boot_rules({1: RULES[1][::-1]})]), 6, "event rules are not in ascending"),
    "unjudged-code.signed": (attached(rules=[boot_rules({1: [[4, 8, [2]]]})]), 6, "which carry no code"),
    "unknown-rule.signed": (attached(rules=[boot_rules({7: 0})]), 6, "boot-rules holds key 7"),
    "unbound-attester.signed": (attached(rules=[boot_rules({6: 1})]), 6, "roothash="),
    "every-part.signed": (attached(rules=[boot_rules(), POLICY, IMAGE], first=[WINDOW], further=True), 0, ""),
    "endorsements.signed": (bundle(LIST, maker.sign1(LIST, "manufacturer"), importer.sign1(LIST, "importer")), 0, ""),
    "endorsed-by-importer.signed": (bundle(LIST, importer.sign1(LIST, "importer")), 6, "needs a manufacturer"),
    "unordered-list.signed": (maker.sign1(endorsements(order=-1), "manufacturer", True), 6, "endorsed keys are not in ascending"),
    "moved-to-list.signed": (bundle(LIST, by_maker), 6, "does not hold"),
    "notice.signed": (bundle(NOTICE, maker.sign1(NOTICE, "manufacturer")), 0, ""),
    "notice-of-all.signed": (maker.sign1(notice("*"), "manufacturer", True), 6, "not trusted for the product"),
    "notice-out-of-order.signed": (maker.sign1(notice(parts=(BAD, REVOKED)), "manufacturer", True), 6, "stand in this order"),
    "two-minima.signed": (maker.sign1(notice(parts=(MINIMUM, MINIMUM)), "manufacturer", True), 6, "stand in this order"),
    "notice-as-release.signed": (maker.sign1(corim({3: Tag(32, NOTICE_PROFILE)}), "manufacturer", True), 6, "not-before"),
    "foreign.signed": (maker.sign1(foreign(), "manufacturer", True), 6, "one tag is expected"),
    "trailing-byte.signed": (bundle(good, by_maker) + b"\0", 6, "bytes follow the end"),
    "truncated.signed": (bundle(good, by_maker)[:-1], 6, "malformed"),
    "nested.signed": (b"\x81" * 1000 + b"\0", 6, "nested too deeply"),
}

(HERE / "trust").mkdir(exist_ok=True)
entries = []
for name, role, key, products, not_after in TRUST:
    end = f"not-after = {not_after}\n" if not_after else ""
    entries.append(
        f'[[signer]]\nname = "{name}"\nrole = "{role}"\nproducts = {json.dumps(products)}\n{end}key = """\n{key.pem}"""\n'
    )
(HERE / "trust" / "trust.toml").write_text("\n".join(entries))
for name, (content, _, _) in FILES.items():
    (HERE / name).write_bytes(content)
expected = {name: {"exit": code, "message": message} for name, (_, code, message) in FILES.items()}
(HERE / "expected.json").write_text(json.dumps(expected, indent=2) + "\n")
