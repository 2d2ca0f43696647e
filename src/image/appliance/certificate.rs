//! Whether the manifest is signed by the key of the certificate beside it; formats contract 4.4.
//!
//! That proves who signed only as far as the certificate is trusted, which is not judged here: an
//! appliance mostly carries a self-signed one.

use base64::{Engine as _, prelude::BASE64_STANDARD};
use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA256_ASN1, RSA_PKCS1_1024_8192_SHA1_FOR_LEGACY_USE_ONLY,
    RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY, RSA_PKCS1_1024_8192_SHA512_FOR_LEGACY_USE_ONLY,
    UnparsedPublicKey, VerificationAlgorithm,
};
use vmferry_formats::ova::{Sum, SumAlgorithm, parse_sum};

use super::{ApplianceCheck, CheckKind, CheckOutcome};
use crate::source::Appliance;

/// Checks the certificate, if there is one.
pub(super) fn check(appliance: &Appliance, checks: &mut Vec<ApplianceCheck>) {
    let Some((name, text)) = appliance.certificate() else { return };
    let (outcome, detail) = match appliance.manifest() {
        None => (CheckOutcome::Failed, "there is no manifest that it could be for".to_owned()),
        Some((manifest, bytes)) => judge(text, manifest, bytes),
    };
    checks.push(ApplianceCheck::new(CheckKind::Certificate, outcome, Some(name), detail));
}

fn judge(text: &[u8], manifest: &str, manifest_bytes: &[u8]) -> (CheckOutcome, String) {
    let failed = |text: &str| (CheckOutcome::Failed, text.to_owned());
    let Some(sum) = text.split(|&byte| byte == b'\n').find_map(parse_sum) else {
        return failed("there is no signature in it");
    };
    if sum.name != manifest {
        return (CheckOutcome::Failed, format!("it is for {:?}, not for {manifest:?}", sum.name));
    }
    let Some(der) = pem(text) else { return failed("there is no certificate in it") };
    let Some(key) = public_key(&der) else { return failed("its certificate is damaged") };
    let Some(algorithm) = algorithm(&key, &sum) else {
        let text = format!("not checked: a signature with {} by that kind of key", sum.algorithm);
        return (CheckOutcome::NotChecked, text);
    };
    match UnparsedPublicKey::new(algorithm, key.bits).verify(manifest_bytes, &sum.value) {
        Ok(()) => {
            let text =
                format!("{} signed by its key; whether that is to be trusted is not judged", sum.algorithm);
            (CheckOutcome::Passed, text)
        }
        Err(_) => failed("the manifest was not signed by its key, or was changed since"),
    }
}

fn algorithm(key: &PublicKey<'_>, sum: &Sum) -> Option<&'static dyn VerificationAlgorithm> {
    Some(match (key.algorithm, sum.algorithm) {
        (OID_RSA, SumAlgorithm::Sha1) => &RSA_PKCS1_1024_8192_SHA1_FOR_LEGACY_USE_ONLY,
        (OID_RSA, SumAlgorithm::Sha256) => &RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY,
        (OID_RSA, SumAlgorithm::Sha512) => &RSA_PKCS1_1024_8192_SHA512_FOR_LEGACY_USE_ONLY,
        (OID_EC, SumAlgorithm::Sha256) if key.parameters == OID_P256 => &ECDSA_P256_SHA256_ASN1,
        (OID_EC, SumAlgorithm::Sha256) if key.parameters == OID_P384 => &ECDSA_P384_SHA256_ASN1,
        _ => return None,
    })
}

/// The first certificate in PEM.
fn pem(text: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(text).ok()?;
    let (_, text) = text.split_once("-----BEGIN CERTIFICATE-----")?;
    let (text, _) = text.split_once("-----END CERTIFICATE-----")?;
    let digits: String = text.split_ascii_whitespace().collect();
    BASE64_STANDARD.decode(digits).ok()
}

struct PublicKey<'a> {
    /// OIDs of the kind of key and, for elliptic curves, of the curve.
    algorithm: &'a [u8],
    parameters: &'a [u8],
    bits: &'a [u8],
}

/// The key in a certificate (RFC 5280, 4.1): the element behind the subject.
fn public_key(der: &[u8]) -> Option<PublicKey<'_>> {
    let mut certificate = Der(Der(der).take(SEQUENCE)?);
    let mut to_be_signed = Der(certificate.take(SEQUENCE)?);
    if to_be_signed.0.first() == Some(&VERSION) {
        to_be_signed.take(VERSION)?;
    }
    to_be_signed.take(INTEGER)?;
    // Signature algorithm, issuer, validity, subject.
    for _ in 0..4 {
        to_be_signed.take(SEQUENCE)?;
    }
    let mut key = Der(to_be_signed.take(SEQUENCE)?);
    let mut kind = Der(key.take(SEQUENCE)?);
    let algorithm = kind.take(OID)?;
    let parameters = kind.take(OID).unwrap_or_default();
    // No bits of the last byte are unused.
    let bits = key.take(BIT_STRING)?.strip_prefix(&[0])?;
    Some(PublicKey { algorithm, parameters, bits })
}

/// Elements in DER that stand behind each other.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    /// The content of the next element, if it has this tag.
    fn take(&mut self, tag: u8) -> Option<&'a [u8]> {
        let (&[found, first], rest) = self.0.split_first_chunk::<2>()?;
        let (len, rest) = match first {
            0..=0x7f => (usize::from(first), rest),
            0x81..=0x84 => {
                let (digits, rest) = rest.split_at_checked(usize::from(first - 0x80))?;
                (digits.iter().fold(0, |len, &digit| len << 8 | usize::from(digit)), rest)
            }
            _ => return None,
        };
        let (content, rest) = rest.split_at_checked(len)?;
        (found == tag).then(|| {
            self.0 = rest;
            content
        })
    }
}

const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OID: u8 = 0x06;
const SEQUENCE: u8 = 0x30;
const VERSION: u8 = 0xa0;

/// 1.2.840.113549.1.1.1
const OID_RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
/// 1.2.840.10045.2.1
const OID_EC: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
/// 1.2.840.10045.3.1.7
const OID_P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
/// 1.3.132.0.34
const OID_P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384};
    use ring::{
        rand::SystemRandom,
        signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair},
    };

    use super::*;

    const MANIFEST: &[u8] = b"SHA256(x.ovf)= 00\n";

    /// A certificate file for [`MANIFEST`], by a key on P-256, and the key's certificate.
    fn signed() -> (String, String) {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let pem = CertificateParams::new(Vec::new()).unwrap().self_signed(&key).unwrap().pem();
        let random = SystemRandom::new();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, key.serialized_der(), &random);
        let signature = key.unwrap().sign(&random, MANIFEST).unwrap();
        let hex: String = signature.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        (format!("SHA256(x.mf)= {hex}\n{pem}"), pem)
    }

    #[test]
    fn a_signature_counts_for_its_manifest_alone() {
        let (text, _) = signed();
        let judged = |text: &str, name, manifest| judge(text.as_bytes(), name, manifest);
        let (outcome, detail) = judged(&text, "x.mf", MANIFEST);
        assert!(outcome == CheckOutcome::Passed && detail.contains("not judged"), "{detail}");
        // As ovftool fills its slot.
        let padded = format!("{}\r\n{}", text.replace('\n', "\r\n"), " ".repeat(1000));
        assert_eq!(judged(&padded, "x.mf", MANIFEST).0, CheckOutcome::Passed);
        let digit = if text.as_bytes()[30] == b'0' { "1" } else { "0" };
        let changed = format!("{}{digit}{}", &text[..30], &text[31..]);
        for (text, name, manifest, word) in [
            (text.as_str(), "x.mf", &b"SHA256(x.ovf)= 01\n"[..], "changed since"),
            (&changed, "x.mf", MANIFEST, "changed since"),
            (&text, "y.mf", MANIFEST, "not for \"y.mf\""),
            ("", "x.mf", MANIFEST, "no signature"),
            (&text[..200], "x.mf", MANIFEST, "no certificate"),
            (&text.replace("MII", "AAA"), "x.mf", MANIFEST, "damaged"),
        ] {
            let (outcome, detail) = judged(text, name, manifest);
            assert!(outcome == CheckOutcome::Failed && detail.contains(word), "{word}: {detail}");
        }
    }

    #[test]
    fn keys_that_are_not_known_are_not_checked() {
        let (text, pem) = signed();
        let sha1 = text.replace("SHA256(", "SHA1(");
        assert_eq!(judge(sha1.as_bytes(), "x.mf", MANIFEST).0, CheckOutcome::NotChecked);
        let other = KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap();
        let other = CertificateParams::new(Vec::new()).unwrap().self_signed(&other).unwrap().pem();
        // A key of another curve is known, but did not sign.
        assert_eq!(judge(text.replace(&pem, &other).as_bytes(), "x.mf", MANIFEST).0, CheckOutcome::Failed);
    }

    #[test]
    fn damaged_certificates_never_panic() {
        let (text, _) = signed();
        let der = pem(text.as_bytes()).unwrap();
        for at in 0..der.len() {
            let mut damaged = der.clone();
            damaged[at] ^= 0xff;
            let _ = public_key(&damaged);
            let _ = public_key(&der[..at]);
        }
        assert!(public_key(&der).is_some());
    }
}
