//! The hash of a list of byte strings.

use aws_lc_rs::digest::{Context, SHA256};

/// Returns the SHA-256 of a list of parts. The length of each part is hashed before the part, so different lists have different
/// hashes, even if their concatenations are equal.
pub fn hash_parts(parts: &[&[u8]]) -> Vec<u8> {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    context.finish().as_ref().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn different_lists_have_different_hashes() {
        let hash = |parts: &[&str]| hash_parts(&parts.iter().map(|part| part.as_bytes()).collect::<Vec<_>>());
        assert_eq!(hash(&["ab", "c"]), hash(&["ab", "c"]));
        for other in [&["a", "bc"][..], &["abc"], &["ab", "c", ""], &["", "ab", "c"], &[]] {
            assert_ne!(hash(&["ab", "c"]), hash(other), "{other:?}");
        }
    }
}
