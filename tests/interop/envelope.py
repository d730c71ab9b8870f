#!/usr/bin/env python3
"""Reads messages with pycose and cbor2, knowing only docs/protocol.md; an exception is a failed check.

envelope.py evidence MESSAGE AK OUT NONCE...   AK: TPM2B_PUBLIC. Writes the quote for tpm2_checkquote into the folder
                                               OUT: quote.msg, quote.sig (TPMT_SIGNATURE), extra-data (hex)
envelope.py result MESSAGE POINT               POINT: the verifier's key, an uncompressed P-256 point
"""
import hashlib
import pathlib
import sys

import cbor2
from pycose.keys import EC2Key
from pycose.keys.curves import P256
from pycose.messages import CoseMessage, Sign1Message

NONCE, UEID, PROFILE, QUOTE, LOGS, ATTESTER = 10, 256, 265, -70001, -70002, -70003
EXPIRES, ISSUED, SUBMODS, STATUS, VECTOR = 4, 6, 266, 1000, 1001


def sha256(data):
    return hashlib.sha256(data).digest()


def must(condition, what):
    if not condition:
        sys.exit(f"envelope.py: {what}")


def verified(path, point):
    """The message, once its signature holds, and no longer holds over a changed payload or by another key."""
    message = CoseMessage.decode(pathlib.Path(path).read_bytes())
    must(isinstance(message, Sign1Message), "not a COSE_Sign1")
    message.key = EC2Key(crv=P256, x=point[:32], y=point[32:])
    must(message.verify_signature(), "the signature does not hold")
    payload = message.payload
    for at in (0, len(payload) // 2, len(payload) - 1):
        message.payload = payload[:at] + bytes([payload[at] ^ 1]) + payload[at + 1:]
        must(not message.verify_signature(), f"the signature holds with payload byte {at} changed")
    message.payload = payload
    must(cbor2.dumps(cbor2.loads(payload), canonical=True) == payload, "the payload is not deterministic CBOR")
    return message


def header(message):
    """Protected parameters by label."""
    return cbor2.loads(message.phdr_encoded)


def evidence(path, ak, out, nonces):
    public = pathlib.Path(ak).read_bytes()
    must(int.from_bytes(public[:2], "big") == len(public) - 2, "the AK is not a TPM2B_PUBLIC")
    area = public[2:]
    must(area[-68:-66] == b"\0\x20" and area[-34:-32] == b"\0\x20", "the AK does not end with a P-256 point")
    message = verified(path, area[-66:-34] + area[-32:])
    must(header(message) == {1: -7, 3: 267, 4: sha256(area), 16: 263}, f"protected header: {header(message)}")
    claims = cbor2.loads(message.payload)
    must(set(claims) - {LOGS} == {NONCE, UEID, PROFILE, QUOTE, ATTESTER}, f"claims: {sorted(claims)}")
    wanted = [bytes.fromhex(nonce) for nonce in nonces]
    must(claims[NONCE] == (wanted[0] if len(wanted) == 1 else wanted), "nonces differ from those that were asked for")
    must(len(claims[UEID]) == 33 and claims[UEID][0] == 1, "ueid is not 0x01 and an id")
    # Unprotected: attachments and nothing else, each with its digest among the signed claims.
    unprotected = cbor2.loads(pathlib.Path(path).read_bytes()).value[1]
    attached = unprotected.pop(LOGS, [])
    must(not unprotected, f"unprotected header: {sorted(unprotected)}")
    must([sha256(log) for log in attached] == [claim[3] for claim in claims.get(LOGS, [])], "digests of attachments")
    attest, signature = claims[QUOTE]
    committed = {key: value for key, value in claims.items() if key not in (QUOTE, LOGS)}
    out = pathlib.Path(out)
    out.joinpath("quote.msg").write_bytes(attest)
    # TPM_ALG_ECDSA, TPM_ALG_SHA256, and r and s each with its size.
    out.joinpath("quote.sig").write_bytes(
        b"\0\x18\0\x0b" + b"".join(b"\0\x20" + half for half in (signature[:32], signature[32:])))
    out.joinpath("extra-data").write_text(sha256(cbor2.dumps(committed, canonical=True)).hex())


def result(path, key):
    point = pathlib.Path(key).read_bytes()
    message = verified(path, point[1:])
    must(header(message) == {1: -7, 4: sha256(point), 16: 263}, f"protected header: {header(message)}")
    claims = cbor2.loads(message.payload)
    must({EXPIRES, ISSUED, NONCE, UEID, PROFILE, SUBMODS} <= set(claims), f"claims: {sorted(claims)}")
    must(claims[ISSUED] < claims[EXPIRES], "expired when it was issued")
    submodule = claims[SUBMODS]["attester"]
    must(submodule[STATUS] in (0, 2, 32, 96), f"ear_status: {submodule[STATUS]}")
    must(all(0 <= value <= 127 for value in submodule[VECTOR].values()), f"trust vector: {submodule[VECTOR]}")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["evidence", path, ak, out, *nonces] if nonces:
            evidence(path, ak, out, nonces)
        case ["result", path, key]:
            result(path, key)
        case _:
            sys.exit(__doc__)
