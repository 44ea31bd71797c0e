//! TLS to PostgreSQL by rustls, with the meaning that libpq gives to `sslmode`.

use std::sync::Arc;

use anyhow::{Context, bail};
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio_postgres_rustls::MakeRustlsConnect;

pub(super) type Connector = MakeRustlsConnect;

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Disable,
    /// Encrypted; the certificate is not checked.
    Require,
    /// Encrypted; the certificate must be valid for the host.
    Verify,
}

/// Takes `sslmode` out of a URL, since the client library knows fewer of its values than libpq.
pub(super) fn split_mode(url: &str) -> anyhow::Result<(String, Mode)> {
    let Some((base, query)) = url.split_once('?') else {
        return Ok((url.to_owned(), Mode::Disable));
    };
    let mut mode = Mode::Disable;
    let mut rest = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        match pair.split_once('=') {
            Some(("sslmode" | "ssl", value)) => {
                mode = match value {
                    "disable" | "allow" | "prefer" | "false" => Mode::Disable,
                    "require" | "true" => Mode::Require,
                    "verify-ca" | "verify-full" => Mode::Verify,
                    _ => bail!("DATABASE_URL has sslmode={value}; write disable, require or verify-full"),
                }
            }
            _ => rest.push(pair),
        }
    }
    let url = if rest.is_empty() { base.to_owned() } else { format!("{base}?{}", rest.join("&")) };
    Ok((url, mode))
}

impl Mode {
    pub(super) fn connector(&self) -> anyhow::Result<Option<Connector>> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .context("TLS cannot be set up")?;
        let config = match self {
            Self::Disable => return Ok(None),
            Self::Require => builder
                .dangerous()
                .with_custom_certificate_verifier(Arc::new(Unverified(provider)))
                .with_no_client_auth(),
            Self::Verify => {
                let mut roots = RootCertStore::empty();
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
                if roots.is_empty() {
                    bail!("sslmode=verify-full needs the system's root certificates, and none were found");
                }
                builder.with_root_certificates(roots).with_no_client_auth()
            }
        };
        Ok(Some(MakeRustlsConnect::new(config)))
    }
}

/// Accepts any certificate: what `sslmode=require` means.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sslmode_is_taken_out_of_the_url() {
        let (url, mode) = split_mode("postgres://h/db?sslmode=verify-full&application_name=x").unwrap();
        assert_eq!((url.as_str(), mode), ("postgres://h/db?application_name=x", Mode::Verify));
        let (url, mode) = split_mode("postgres://h/db?sslmode=require").unwrap();
        assert_eq!((url.as_str(), mode), ("postgres://h/db", Mode::Require));
        assert!(split_mode("postgres://h/db?sslmode=maybe").is_err());
    }
}
