//! Signing a manifest: the key and the certificate of an appliance.

use std::{fmt, fs, os::unix::fs::MetadataExt as _, path::Path, sync::Arc};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use rustls::{
    SignatureScheme,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    sign::{CertifiedKey, SigningKey},
};

use crate::{
    error::{Error, Result},
    pipeline::hash::FileHash,
};

/// A private key and its certificate, which sign the manifest of an appliance.
///
/// RSA (PKCS #1 v1.5) and ECDSA on P-256, with SHA-256. An ECDSA signature is another one each time, so
/// appliances that are signed by one are not equal byte by byte.
#[derive(Clone)]
pub struct Signer {
    key: Arc<dyn SigningKey>,
    certificate: CertificateDer<'static>,
    /// What the operator should know.
    warnings: Vec<String>,
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").field("certificate", &self.fingerprint()).finish_non_exhaustive()
    }
}

impl Signer {
    /// Reads a key and a certificate from PEM files.
    ///
    /// # Errors
    /// A file cannot be read, or as for [`from_pem`](Self::from_pem). No error holds any of the key.
    pub fn open(key: &Path, certificate: &Path) -> Result<Self> {
        let read = |path: &Path| fs::read(path).map_err(|error| Error::io("read", path, error));
        let mut this = Self::from_pem(&read(key)?, &read(certificate)?).map_err(|error| {
            error.prefixed(&format!("cannot sign with {} and {}: ", key.display(), certificate.display()))
        })?;
        let mode = fs::metadata(key).map_err(|error| Error::io("look at", key, error))?.mode();
        if mode & 0o077 != 0 {
            this.warnings.push(format!(
                "others may read the key {} (mode {:04o}): chmod 600 would keep them out",
                key.display(),
                mode & 0o7777
            ));
        }
        Ok(this)
    }

    /// From PEM texts: a private key (PKCS #8, PKCS #1 or SEC 1, not encrypted) and its certificate. Of
    /// what else stands in them nothing is used.
    ///
    /// # Errors
    /// There is no such key or certificate, the key is of another kind, or they do not belong together.
    pub fn from_pem(key: &[u8], certificate: &[u8]) -> Result<Self> {
        let certificate = CertificateDer::from_pem_slice(certificate)
            .map_err(|_| Error::usage("there is no PEM certificate in the certificate's file"))?;
        // What went wrong inside of a key is not told: it could show some of it.
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| {
            Error::usage("there is no PEM private key that can be used in the key's file")
                .with_hint("an encrypted key must be decrypted first: openssl pkey -in KEY -out PLAIN")
        })?;
        let key = rustls::crypto::ring::sign::any_supported_type(&key).map_err(|_| unusable())?;
        if key.choose_scheme(&SCHEMES).is_none() {
            return Err(unusable());
        }
        if CertifiedKey::new(vec![certificate.clone()], Arc::clone(&key)).keys_match().is_err() {
            return Err(Error::usage("the certificate is not that of the key"));
        }
        Ok(Self { key, certificate, warnings: Vec::new() })
    }

    /// SHA-256 of the certificate, hexadecimal.
    pub fn fingerprint(&self) -> String {
        FileHash::Sha256.of(&self.certificate).to_string()
    }

    /// What the operator should know.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// The signature of `bytes`.
    ///
    /// # Errors
    /// The key does not sign.
    pub(super) fn sign(&self, bytes: &[u8]) -> Result<Vec<u8>> {
        let signer = self.key.choose_scheme(&SCHEMES).ok_or_else(unusable)?;
        signer.sign(bytes).map_err(|error| Error::failed("cannot sign the manifest").with_source(error))
    }

    /// The certificate in PEM, and nothing else that stood in its file.
    pub(super) fn certificate_pem(&self) -> String {
        let digits = BASE64_STANDARD.encode(&self.certificate);
        let mut pem = String::from("-----BEGIN CERTIFICATE-----\n");
        let mut rest = digits.as_str();
        while !rest.is_empty() {
            let (line, more) = rest.split_at(rest.len().min(64));
            pem.push_str(line);
            pem.push('\n');
            rest = more;
        }
        pem.push_str("-----END CERTIFICATE-----\n");
        pem
    }
}

fn unusable() -> Error {
    Error::usage("the key cannot sign an appliance")
        .with_hint("RSA keys of 2048 bits and more, and ECDSA keys on P-256, can")
}

/// What readers of appliances know: SHA-256 and the two usual kinds of key.
const SCHEMES: [SignatureScheme; 2] =
    [SignatureScheme::RSA_PKCS1_SHA256, SignatureScheme::ECDSA_NISTP256_SHA256];
