//! TLS to PostgreSQL with rustls.
//!
//! The values of `sslmode` have the meaning that they have in libpq (PostgreSQL documentation, "SSL Support", table
//! "SSL Mode Descriptions"). Two things differ: the default root certificates are those of the operating system and not
//! `~/.postgresql/root.crt`, and client certificates are not supported.

use std::{path::PathBuf, sync::Arc};

use anyhow::{Context, bail};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime, pem::PemObject},
};
use tokio_postgres_rustls::MakeRustlsConnect;

pub(super) type Connector = MakeRustlsConnect;

/// A value of `sslmode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// No TLS.
    Disable,
    /// Plain text; TLS if the server refuses plain text.
    Allow,
    /// TLS with any certificate; plain text if TLS fails.
    Prefer,
    /// TLS with any certificate.
    Require,
    /// TLS with a certificate of a trusted authority.
    VerifyCa,
    /// As `VerifyCa`, and the certificate must contain the host name.
    VerifyFull,
}

/// The TLS parameters of a database URL.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TlsOptions {
    pub(super) mode: Mode,
    /// PEM file with the trusted authorities; `None` for those of the operating system.
    root_certificates: Option<PathBuf>,
}

impl TlsOptions {
    /// Splits a URL into the URL without TLS parameters and the parameters. tokio-postgres does not know all values of
    /// libpq.
    ///
    /// # Errors
    /// If the value of `sslmode` is unknown; the message lists the known ones.
    pub(super) fn split_from(url: &str) -> anyhow::Result<(String, Self)> {
        let mut options = Self { mode: Mode::Prefer, root_certificates: None };
        let Some((base, query)) = url.split_once('?') else {
            return Ok((url.to_owned(), options));
        };
        let mut rest = form_urlencoded::Serializer::new(String::new());
        let (mut mode, mut system, mut others) = (None, false, 0);
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match &*name {
                "sslmode" | "ssl" => mode = Some(Mode::parse(&value)?),
                "sslrootcert" if value == "system" => system = true,
                "sslrootcert" => options.root_certificates = Some(value.into_owned().into()),
                _ => {
                    rest.append_pair(&name, &value);
                    others += 1;
                }
            }
        }
        if system && mode.is_some_and(|mode| mode != Mode::VerifyFull) {
            bail!(
                "DATABASE_URL has sslrootcert=system, which needs sslmode=verify-full: anybody can get a certificate"
            );
        }
        options.mode = mode.unwrap_or(if system { Mode::VerifyFull } else { Mode::Prefer });
        if options.root_certificates.is_some() && options.mode == Mode::Require {
            options.mode = Mode::VerifyCa;
        }
        // The serializer writes a space as `+`, which in a URL is a plus sign (RFC 3986).
        let rest = rest.finish().replace('+', "%20");
        Ok((if others == 0 { base.to_owned() } else { format!("{base}?{rest}") }, options))
    }

    /// Returns the ways to connect, in the order in which libpq tries them; `None` is plain text.
    ///
    /// # Errors
    /// If root certificates are needed and cannot be read.
    pub(super) fn attempts(&self) -> anyhow::Result<Vec<Option<Connector>>> {
        let tls = || self.connector().map(Some);
        Ok(match self.mode {
            Mode::Disable => vec![None],
            Mode::Allow => vec![None, tls()?],
            Mode::Prefer => vec![tls()?, None],
            Mode::Require | Mode::VerifyCa | Mode::VerifyFull => vec![tls()?],
        })
    }

    fn connector(&self) -> anyhow::Result<Connector> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .context("cannot set up TLS")?;
        let verifier: Arc<dyn ServerCertVerifier> = match self.mode {
            Mode::VerifyFull => self.webpki(&provider)?,
            Mode::VerifyCa => Arc::new(AnyHostName(self.webpki(&provider)?)),
            _ => Arc::new(AnyCertificate(provider)),
        };
        let config = builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth();
        Ok(MakeRustlsConnect::new(config))
    }

    fn webpki(&self, provider: &Arc<CryptoProvider>) -> anyhow::Result<Arc<WebPkiServerVerifier>> {
        let mut roots = RootCertStore::empty();
        match &self.root_certificates {
            Some(path) => {
                let name =
                    || format!("cannot read the file in sslrootcert={} of DATABASE_URL", path.display());
                for certificate in CertificateDer::pem_file_iter(path).with_context(name)? {
                    roots.add(certificate.with_context(name)?).with_context(name)?;
                }
            }
            None => {
                roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            }
        }
        if roots.is_empty() {
            bail!(
                "cannot verify the certificate of PostgreSQL: no root certificates found; install the package \
                 ca-certificates or add sslrootcert=<PEM file> to DATABASE_URL"
            );
        }
        Ok(WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone()).build()?)
    }
}

impl Mode {
    fn parse(value: &str) -> anyhow::Result<Self> {
        Ok(match value {
            "disable" | "false" => Self::Disable,
            "allow" => Self::Allow,
            "prefer" => Self::Prefer,
            "require" | "true" => Self::Require,
            "verify-ca" => Self::VerifyCa,
            "verify-full" => Self::VerifyFull,
            _ => bail!(
                "DATABASE_URL has sslmode={value}; write disable, allow, prefer, require, verify-ca or verify-full"
            ),
        })
    }
}

/// Verifies the issuer of the certificate but not the host name: `sslmode=verify-ca`.
#[derive(Debug)]
struct AnyHostName(Arc<WebPkiServerVerifier>);

/// Accepts any certificate: `sslmode=require`, `prefer` and `allow`.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyHostName {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        // webpki checks the name last, so this error implies that the signatures are valid.
        match self.0.verify_server_cert(certificate, intermediates, name, ocsp, now) {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            result => result,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

impl ServerCertVerifier for AnyCertificate {
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

    fn split(url: &str) -> (String, Mode, Option<PathBuf>) {
        let (url, options) = TlsOptions::split_from(url).unwrap();
        (url, options.mode, options.root_certificates)
    }

    #[test]
    fn tls_parameters_are_removed_from_the_url() {
        assert_eq!(
            split("postgres://h/db?sslmode=verify-full&application_name=a%20b"),
            ("postgres://h/db?application_name=a%20b".into(), Mode::VerifyFull, None)
        );
        assert_eq!(split("postgres://h/db?sslmode=disable"), ("postgres://h/db".into(), Mode::Disable, None));
        assert_eq!(split("postgres://h/db"), ("postgres://h/db".into(), Mode::Prefer, None));
        let file = Some(PathBuf::from("/ca.pem"));
        assert_eq!(
            split("postgres://h/db?sslmode=require&sslrootcert=%2Fca.pem"),
            ("postgres://h/db".into(), Mode::VerifyCa, file)
        );
        assert_eq!(split("postgres://h/db?sslrootcert=system").1, Mode::VerifyFull);
        assert_eq!(split("postgres://h/db?sslrootcert=system&sslmode=verify-full").1, Mode::VerifyFull);
        let refused = [
            "sslmode=maybe",
            "sslmode=require&sslrootcert=system",
            "sslrootcert=system&sslmode=verify-ca",
            "sslrootcert=system&sslmode=prefer",
        ];
        for query in refused {
            assert!(TlsOptions::split_from(&format!("postgres://h/db?{query}")).is_err(), "{query}");
        }
    }

    #[test]
    fn each_mode_tries_the_same_ways_as_libpq() {
        let attempts = |mode| {
            let options = TlsOptions { mode, root_certificates: None };
            options.attempts().unwrap().iter().map(Option::is_some).collect::<Vec<_>>()
        };
        assert_eq!(attempts(Mode::Disable), [false]);
        assert_eq!(attempts(Mode::Allow), [false, true]);
        assert_eq!(attempts(Mode::Prefer), [true, false]);
        assert_eq!(attempts(Mode::Require), [true]);
    }
}
