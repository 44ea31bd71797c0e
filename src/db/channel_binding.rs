//! The hash of a certificate that binds a login to its TLS connection (RFC 5929 section 4.1).

use aws_lc_rs::digest;

// The bytes of object identifiers in DER, without the last byte, which identifies the algorithm.
const PKCS1: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01];
const ECDSA_WITH_SHA1: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04];
const ECDSA_WITH_SHA2: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03];
const SHA1: &[u8] = &[0x2b, 0x0e, 0x03, 0x02];
const SHA2: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02];
/// The whole identifier id-RSASSA-PSS, whose parameters name the hash (RFC 4055 section 3.1).
const RSASSA_PSS: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0a];
/// Tag of the first parameter of RSASSA-PSS, the hash.
const PSS_HASH: u8 = 0xa0;

/// Returns the channel binding `tls-server-end-point` of a certificate in DER: its hash by the algorithm of its signature,
/// or by SHA-256 instead of MD5 and SHA-1 (RFC 5929 section 4.1). `None` if the algorithm of the signature is not
/// supported, such as Ed25519, or cannot be read.
pub(super) fn server_end_point(certificate: &[u8]) -> Option<Vec<u8>> {
    let (_, fields, _) = element(certificate)?;
    let (_, _to_be_signed, fields) = element(fields)?;
    let (_, signature, _) = element(fields)?;
    let (_, mut algorithm, parameters) = element(signature)?;
    if algorithm == RSASSA_PSS {
        let (_, parameters, _) = element(parameters)?;
        algorithm = match element(parameters) {
            Some((PSS_HASH, hash, _)) => element(element(hash)?.1)?.1,
            // Without the parameter, the hash is SHA-1, which SHA-256 replaces.
            _ => return Some(digest::digest(&digest::SHA256, certificate).as_ref().to_vec()),
        };
    }
    let (last, family) = algorithm.split_last()?;
    let hash = match (family, *last) {
        (PKCS1, 4 | 5 | 11) | (ECDSA_WITH_SHA1, 1) | (ECDSA_WITH_SHA2, 2) | (SHA2, 1) => &digest::SHA256,
        (SHA1, 0x1a) => &digest::SHA256,
        (PKCS1, 12) | (ECDSA_WITH_SHA2, 3) | (SHA2, 2) => &digest::SHA384,
        (PKCS1, 13) | (ECDSA_WITH_SHA2, 4) | (SHA2, 3) => &digest::SHA512,
        _ => return None,
    };
    Some(digest::digest(hash, certificate).as_ref().to_vec())
}

/// Splits DER into the tag and the contents of its first element, and the rest. `None` if the element is incomplete, or its
/// length is indefinite or has more than four bytes.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81..=0x84 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
            (bytes.iter().fold(0, |length, byte| (length << 8) | usize::from(*byte)), rest)
        }
        _ => return None,
    };
    let (contents, rest) = rest.split_at_checked(length)?;
    Some((tag, contents, rest))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn der(tag: u8, contents: &[&[u8]]) -> Vec<u8> {
        let contents = contents.concat();
        let length = u16::try_from(contents.len()).unwrap().to_be_bytes();
        [&[tag, 0x82][..], &length, &contents].concat()
    }

    /// A certificate with a signature algorithm and its parameters.
    fn certificate(family: &[u8], last: u8, parameters: &[u8]) -> Vec<u8> {
        let algorithm = der(0x30, &[&der(6, &[family, &[last]]), parameters]);
        der(0x30, &[&der(0x30, &[&[7; 300]]), &algorithm, &der(3, &[&[0, 1]])])
    }

    #[test]
    fn the_hash_follows_the_algorithm_of_the_signature() {
        let length = |family: &[u8], last| {
            server_end_point(&certificate(family, last, &[5, 0])).map(|hash| hash.len())
        };
        for (family, last, expected) in [
            (PKCS1, 4, Some(32)),
            (PKCS1, 5, Some(32)),
            (PKCS1, 11, Some(32)),
            (PKCS1, 12, Some(48)),
            (PKCS1, 13, Some(64)),
            (ECDSA_WITH_SHA1, 1, Some(32)),
            (ECDSA_WITH_SHA2, 2, Some(32)),
            (ECDSA_WITH_SHA2, 3, Some(48)),
            (ECDSA_WITH_SHA2, 4, Some(64)),
            // Ed25519.
            (&[0x2b, 0x65][..], 0x70, None),
        ] {
            assert_eq!(length(family, last), expected, "{family:x?} {last}");
        }
        for (last, expected) in [(1, 32), (2, 48), (3, 64)] {
            let hash = der(0x30, &[&der(6, &[SHA2, &[last]]), &[5, 0]]);
            let mask = der(0xa1, &[&der(0x30, &[&der(6, &[PKCS1, &[8]])])]);
            let parameters = der(0x30, &[&der(PSS_HASH, &[&hash]), &mask]);
            let certificate = certificate(PKCS1, 10, &parameters);
            assert_eq!(server_end_point(&certificate).map(|hash| hash.len()), Some(expected));
        }
        assert_eq!(
            server_end_point(&certificate(PKCS1, 10, &der(0x30, &[]))).map(|hash| hash.len()),
            Some(32)
        );
        let whole = certificate(PKCS1, 11, &[5, 0]);
        for end in 0..320 {
            assert!(server_end_point(&whole[..end]).is_none(), "{end}");
        }
    }
}
