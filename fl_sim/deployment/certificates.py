"""Certificates and keys of a deployment, made on the spot: elliptic curves (P-384), readable by their owner alone.

The private key of the certificate authority is never written: nobody can sign another certificate with it.
"""

import datetime
import ipaddress
import secrets
from collections.abc import Sequence

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from fl_sim.deployment import State
from fl_sim.runs import write_atomically

VALID = datetime.timedelta(days=365)
OTHER_USES = dict.fromkeys(
    [
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "encipher_only",
        "decipher_only",
    ],
    False,
)
LOOPBACK = ("localhost", "127.0.0.1")  # always among the names; the SuperLink's own processes and probes use them


def make(state: State, users: int, hosts: Sequence[str]) -> None:
    """Write an authority, the SuperLink's certificate for `hosts` and loopback, secrets, and `users` node keys."""
    for stale in state.node_keys():
        stale.unlink(missing_ok=True)
        stale.with_suffix(".pub").unlink()
    authority, server = (ec.generate_private_key(ec.SECP384R1()) for _ in range(2))
    root = _sign(authority, authority, "fl-sim authority", issuer=None, hosts=())
    certificate = _sign(authority, server, "fl-sim SuperLink", issuer=root, hosts=[*LOOPBACK, *hosts])
    write_atomically(state.authority, root.public_bytes(serialization.Encoding.PEM))
    write_atomically(state.tls_certificate, certificate.public_bytes(serialization.Encoding.PEM))
    write_atomically(state.tls_key, _private(server, serialization.PrivateFormat.PKCS8))
    write_atomically(state.superexec_secret, secrets.token_hex(32).encode())
    write_atomically(state.ray_token, secrets.token_hex(32).encode())
    for user in range(users):
        key = ec.generate_private_key(ec.SECP384R1())
        write_atomically(state.node_key(user), _private(key, serialization.PrivateFormat.OpenSSH))
        public = key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
        write_atomically(state.public_node_key(user), public)


def serves(state: State, users: int) -> bool:
    """Whether `state` holds valid certificates and the keys of `users` users already."""
    if not state.tls_certificate.exists() or len(state.node_keys()) != users:
        return False
    certificate = x509.load_pem_x509_certificate(state.tls_certificate.read_bytes())
    return certificate.not_valid_after_utc > datetime.datetime.now(datetime.UTC)


def _private(key: ec.EllipticCurvePrivateKey, form: serialization.PrivateFormat) -> bytes:
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def _sign(
    authority: ec.EllipticCurvePrivateKey,
    key: ec.EllipticCurvePrivateKey,
    name: str,
    issuer: x509.Certificate | None,
    hosts: Sequence[str],
) -> x509.Certificate:
    """A certificate of `key`, signed by `authority`: its own (no issuer), or a server's that is reached as `hosts`."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))  # clocks of other machines may be late
        .not_valid_after(now + VALID)
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=0 if issuer is None else None), True)
        .add_extension(
            x509.KeyUsage(digital_signature=True, key_cert_sign=issuer is None, crl_sign=issuer is None, **OTHER_USES),
            True,
        )
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()), False)
    )
    if issuer is not None:
        builder = builder.add_extension(x509.SubjectAlternativeName([_name(host) for host in hosts]), False)
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False)
    return builder.sign(authority, hashes.SHA384())


def _name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
