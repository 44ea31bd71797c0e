//! Static responses that are created on the first request.

use std::sync::{Arc, OnceLock};

use aws_lc_rs::digest::{SHA256, digest};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use hyper::body::Bytes;
use poem::{
    Endpoint, Request, Response,
    endpoint::make,
    http::{HeaderValue, header},
};

use crate::{
    api::middleware::{accepts_gzip, gzip},
    error::{Error, Result},
};

/// A static text. The first request creates it, and the first request that accepts gzip compresses it.
#[derive(Clone)]
pub(super) struct Asset(Arc<Inner>);

struct Inner {
    content_type: &'static str,
    /// Returns the Content-Security-Policy for the text of a page. `None` if the text is not a page.
    policy: Option<fn(&str) -> String>,
    make: Box<dyn Fn() -> anyhow::Result<String> + Send + Sync>,
    content: OnceLock<Content>,
    gzip: OnceLock<Option<Variant>>,
}

/// The uncompressed text, and its Content-Security-Policy.
struct Content {
    text: Variant,
    policy: Option<HeaderValue>,
}

/// The compressed or the uncompressed text. Each variant has its own entity tag (RFC 9110 section 8.8.3.3).
#[derive(Clone)]
struct Variant {
    bytes: Bytes,
    coding: Option<HeaderValue>,
    etag: HeaderValue,
}

impl Variant {
    fn new(bytes: Vec<u8>, coding: Option<&'static str>) -> anyhow::Result<Self> {
        let hash = BASE64_URL_SAFE_NO_PAD.encode(digest(&SHA256, &bytes));
        let etag = HeaderValue::try_from(format!("\"{hash}\""))?;
        Ok(Self { bytes: bytes.into(), coding: coding.map(HeaderValue::from_static), etag })
    }

    /// Returns a response with the content type, and with the headers that depend on the variant.
    fn response(self, content_type: &'static str) -> Response {
        let Self { bytes, coding, etag } = self;
        let mut response = Response::builder().content_type(content_type).body(bytes);
        let headers = response.headers_mut();
        headers.insert(header::ETAG, etag);
        headers.extend(coding.map(|coding| (header::CONTENT_ENCODING, coding)));
        response
    }
}

impl Asset {
    pub(super) fn new(
        content_type: &'static str,
        policy: Option<fn(&str) -> String>,
        make: impl Fn() -> anyhow::Result<String> + Send + Sync + 'static,
    ) -> Self {
        let (content, gzip) = (OnceLock::new(), OnceLock::new());
        Self(Arc::new(Inner { content_type, policy, make: Box::new(make), content, gzip }))
    }

    pub(super) fn endpoint(self) -> impl Endpoint<Output = Response> {
        make(move |req| {
            let asset = self.clone();
            async move { asset.respond(&req).await }
        })
    }

    async fn respond(&self, req: &Request) -> Result<Response> {
        let variant = self.variant(accepts_gzip(req)).await?;
        let mut response = variant.response(self.0.content_type);
        let headers = response.headers_mut();
        headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        if let Some(policy) = self.0.content()?.policy.clone() {
            headers.insert(header::CONTENT_SECURITY_POLICY, policy);
        }
        Ok(response)
    }

    /// Returns the text, compressed if `compressed` is set and the compression succeeds. If the text is not ready yet,
    /// creates it on a blocking thread, because this takes long.
    async fn variant(&self, compressed: bool) -> Result<Variant> {
        let asset = self.clone();
        let make = move || {
            let text = &asset.0.content()?.text;
            let gzip = if compressed { asset.0.gzipped(text) } else { None };
            Ok(gzip.unwrap_or(text).clone())
        };
        let is_ready = if compressed { self.0.gzip.get().is_some() } else { self.0.content.get().is_some() };
        if is_ready { make() } else { tokio::task::spawn_blocking(make).await.map_err(Error::internal)? }
    }
}

impl Inner {
    fn content(&self) -> Result<&Content> {
        match self.content.get() {
            Some(content) => Ok(content),
            None => {
                let content = self
                    .create()
                    .map_err(|error| Error::internal(error.context("cannot create the API document")))?;
                Ok(self.content.get_or_init(|| content))
            }
        }
    }

    fn create(&self) -> anyhow::Result<Content> {
        let text = (self.make)()?;
        let policy = self.policy.map(|policy| HeaderValue::try_from(policy(&text))).transpose()?;
        Ok(Content { text: Variant::new(text.into_bytes(), None)?, policy })
    }

    fn gzipped(&self, text: &Variant) -> Option<&Variant> {
        let compress = || Variant::new(gzip(&text.bytes)?, Some("gzip")).ok();
        self.gzip.get_or_init(compress).as_ref()
    }
}
