//! TLS to PostgreSQL with rustls: what each `sslmode` verifies (PostgreSQL documentation, "SSL Support").

use std::{path::Path, sync::Arc};

use anyhow::{Context, bail};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    version::{TLS12, TLS13},
};

use super::connector::Encrypted;
use crate::config::{SslMode, TlsOptions};

/// The protocol that `sslnegotiation=direct` announces (PostgreSQL documentation, "SSL Session Encryption").
const ALPN_PROTOCOL: &[u8] = b"postgresql";

/// Returns the ways to connect, in the order in which libpq tries them; `None` is plain text. With `tls_only`, the modes
/// `allow` and `prefer` do not use plain text.
///
/// # Errors
/// If a needed certificate or key cannot be read or is invalid, the certificate and the key of the client do not belong together,
/// or a root certificate is needed and none is found.
pub(super) fn attempts(options: &TlsOptions, tls_only: bool) -> anyhow::Result<Vec<Option<Encrypted>>> {
    let tls = || connector(options).map(Some);
    Ok(match options.mode {
        SslMode::Disable => vec![None],
        SslMode::Allow if !tls_only => vec![None, tls()?],
        SslMode::Prefer if !tls_only => vec![tls()?, None],
        _ => vec![tls()?],
    })
}

fn connector(options: &TlsOptions) -> anyhow::Result<Encrypted> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let versions: Vec<_> = [(options.allow_tls13, &TLS13), (options.allow_tls12, &TLS12)]
        .into_iter()
        .filter_map(|(allowed, version)| allowed.then_some(version))
        .collect();
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&versions)
        .context("cannot set up TLS")?;
    let roots = options.root_certificates.as_deref();
    let verifier: Arc<dyn ServerCertVerifier> = match options.mode {
        SslMode::VerifyFull => webpki(roots, &provider)?,
        SslMode::VerifyCa => Arc::new(AnyHostName { issuer: Some(webpki(roots, &provider)?), provider }),
        _ => Arc::new(AnyHostName { issuer: None, provider }),
    };
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    let mut config = match &options.client_certificate {
        None => builder.with_no_client_auth(),
        Some((certificate, key)) => {
            let name = || cannot_read("sslkey", key);
            let key = PrivateKeyDer::from_pem_file(key).with_context(name)?;
            let chain = certificates("sslcert", certificate)?;
            builder.with_client_auth_cert(chain, key).context("sslcert and sslkey do not belong together")?
        }
    };
    config.enable_sni = options.send_name;
    if options.direct {
        config.alpn_protocols = vec![ALPN_PROTOCOL.to_vec()];
    }
    Ok(Encrypted::new(config))
}

fn webpki(roots: Option<&Path>, provider: &Arc<CryptoProvider>) -> anyhow::Result<Arc<WebPkiServerVerifier>> {
    let mut store = RootCertStore::empty();
    match roots {
        Some(path) => {
            for certificate in certificates("sslrootcert", path)? {
                store.add(certificate).with_context(|| cannot_read("sslrootcert", path))?;
            }
        }
        None => {
            store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    if store.is_empty() {
        bail!(
            "cannot verify the certificate of PostgreSQL: no root certificates found; install the package \
             ca-certificates, or name a PEM file with sslrootcert in DATABASE_URL or with POSTGRES_SSLROOTCERT"
        );
    }
    Ok(WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider.clone()).build()?)
}

fn certificates(parameter: &str, path: &Path) -> anyhow::Result<Vec<CertificateDer<'static>>> {
    let name = || cannot_read(parameter, path);
    let list = CertificateDer::pem_file_iter(path).with_context(name)?;
    list.collect::<Result<_, _>>().with_context(name)
}

fn cannot_read(parameter: &str, path: &Path) -> String {
    format!("cannot read the file of {parameter}, {}", path.display())
}

/// A verifier that ignores the host name. With `issuer`, verifies the issuer of the certificate (`sslmode=verify-ca`).
/// Without `issuer`, accepts any certificate (`require`, `prefer` and `allow`).
#[derive(Debug)]
struct AnyHostName {
    issuer: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for AnyHostName {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let Some(issuer) = &self.issuer else { return Ok(ServerCertVerified::assertion()) };
        // webpki checks the name last, so an error about the name implies that the signatures are valid.
        match issuer.verify_server_cert(certificate, intermediates, name, ocsp, now) {
            Err(rustls::Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(ServerCertVerified::assertion()),
            result => result,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mode_decides_which_ways_are_tried_as_in_libpq() {
        let attempts = |mode, tls_only| {
            let options = TlsOptions {
                mode,
                root_certificates: None,
                client_certificate: None,
                direct: false,
                send_name: true,
                allow_tls12: true,
                allow_tls13: true,
            };
            attempts(&options, tls_only).unwrap().iter().map(Option::is_some).collect::<Vec<_>>()
        };
        assert_eq!(attempts(SslMode::Disable, false), [false]);
        assert_eq!(attempts(SslMode::Allow, false), [false, true]);
        assert_eq!(attempts(SslMode::Prefer, false), [true, false]);
        assert_eq!(attempts(SslMode::Require, false), [true]);
        assert_eq!(attempts(SslMode::Allow, true), [true]);
        assert_eq!(attempts(SslMode::Prefer, true), [true]);
    }
}
