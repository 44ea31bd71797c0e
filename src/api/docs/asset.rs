//! Static texts that are created on demand.

use std::sync::{Arc, OnceLock};

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

/// A static text. It is created, and compressed, on the first request that needs it.
#[derive(Clone)]
pub(super) struct Asset(Arc<Inner>);

struct Inner {
    content_type: &'static str,
    /// Returns the Content-Security-Policy of a page for its text.
    policy: Option<fn(&str) -> String>,
    make: Box<dyn Fn() -> anyhow::Result<String> + Send + Sync>,
    content: OnceLock<Content>,
    gzip: OnceLock<Option<Bytes>>,
}

struct Content {
    text: Bytes,
    policy: Option<HeaderValue>,
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
        let (inner, compressed) = (&self.0, accepts_gzip(req));
        let mut response = match self.bytes(compressed).await? {
            (bytes, true) => Response::builder().header(header::CONTENT_ENCODING, "gzip").body(bytes),
            (bytes, false) => Response::builder().body(bytes),
        };
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(inner.content_type));
        headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        if let Some(policy) = inner.content()?.policy.clone() {
            headers.insert(header::CONTENT_SECURITY_POLICY, policy);
        }
        Ok(response)
    }

    /// Returns the text, and whether it is compressed. The first call creates it on a blocking thread, because that
    /// takes long.
    async fn bytes(&self, compressed: bool) -> Result<(Bytes, bool)> {
        let asset = self.clone();
        let make = move || {
            let text = &asset.0.content()?.text;
            let gzip = if compressed { asset.0.gzipped(text) } else { None };
            Ok((gzip.unwrap_or(text).clone(), gzip.is_some()))
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
        Ok(Content { text: text.into(), policy })
    }

    fn gzipped(&self, text: &[u8]) -> Option<&Bytes> {
        self.gzip.get_or_init(|| gzip(text).map(Bytes::from)).as_ref()
    }
}
