//! The Content-Security-Policy of the documentation pages.

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine, prelude::BASE64_STANDARD};

/// Returns the Content-Security-Policy of a page. It allows only the scripts in the page, by their hashes (CSP Level 3,
/// section 2.3.1), and requests only to this server.
///
/// The policy allows inline styles, because both pages add styles at run time. It allows workers, because the search of
/// Redoc runs in a worker. Neither page needs `eval` or sends a form.
pub(super) fn policy(page: &str) -> String {
    let hashes: String = inline_scripts(page)
        .map(|script| BASE64_STANDARD.encode(digest(&SHA256, script.as_bytes())))
        .map(|hash| format!(" 'sha256-{hash}'"))
        .collect();
    format!(
        "default-src 'none'; script-src{hashes}; style-src 'unsafe-inline'; img-src 'self' data:; font-src data:; \
         connect-src 'self'; worker-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
}

/// Returns the text of each inline script. A script ends at the first end tag, as in a browser.
fn inline_scripts(page: &str) -> impl Iterator<Item = &str> {
    let mut rest = page;
    std::iter::from_fn(move || {
        let (_, tag) = rest.split_once("<script")?;
        let (_, text) = tag.split_once('>')?;
        let (script, after) = text.split_once("</script>")?;
        rest = after;
        Some(script)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_script_has_its_hash() {
        let page =
            "<p>1 > 0</p><script charset=\"UTF-8\">\"<script>\"</script>\n<script>alert(1)</script></body>";
        assert!(inline_scripts(page).eq(["\"<script>\"", "alert(1)"]));
        // The result of: printf '%s' 'alert(1)' | openssl dgst -sha256 -binary | base64
        let wanted = " 'sha256-bhHHL3z2vDgxUt0W3dWQOrprscmda2Y5pLsLg4GF+pI='; style-src";
        assert!(policy(page).contains(wanted), "{}", policy(page));
        assert!(policy("<p>no script</p>").contains("; script-src; "));
    }
}
