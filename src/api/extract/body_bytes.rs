//! A reader of request bodies, with limits of size, time and memory.

use std::{ops::Deref, time::Duration};

use futures_util::{StreamExt, stream};
use poem::{Request, RequestBody, http::header, web::headers::HeaderValue};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::{
    api::{
        header_fields::items,
        problem::{ApiError, Result},
    },
    error::Error,
};

/// Maximum time from the start of reading a body to its last byte.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// The highest limit that an operation may declare for its body, in bytes. [`buffer`] and [`peek`] apply it to all
/// operations, because they do not know the limit of the operation.
pub(super) const MAX_DECLARED_BYTES: usize = 512 * 1024;

/// Limits the total size of the request bodies in the memory of this process to 64 MiB: one permit per byte.
static BUFFERED_BODY_BYTES: Semaphore = Semaphore::const_new(64 * 1024 * 1024);

/// The bytes of a body. They hold their permits until they are dropped.
pub(super) struct BodyBytes {
    bytes: Vec<u8>,
    permit: SemaphorePermit<'static>,
}

impl Deref for BodyBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl BodyBytes {
    /// Reads a body of at most `max_bytes`.
    ///
    /// # Errors
    /// [`ApiError::UnsupportedEncoding`]; [`ApiError::BodyTooLarge`]; [`ApiError::BodyTimeout`]; [`ApiError::TooManyBodies`] if
    /// this process has reached its limit for bodies; [`ApiError::MalformedBody`] if the body is malformed or the client
    /// disconnects; [`Error::Internal`] if the body was read before.
    pub(super) async fn read(request: &Request, body: &mut RequestBody, max_bytes: usize) -> Result<Self> {
        refuse_encoded(request)?;
        let read = Self::collect(request, body, max_bytes, &BUFFERED_BODY_BYTES);
        in_time(BODY_TIMEOUT, read).await
    }

    async fn collect(
        request: &Request,
        body: &mut RequestBody,
        max_bytes: usize,
        limit: &'static Semaphore,
    ) -> Result<Self> {
        let announced = request.headers().get(header::CONTENT_LENGTH).and_then(length);
        if announced.is_some_and(|length| length > max_bytes) {
            return Err(ApiError::BodyTooLarge { limit: max_bytes });
        }
        let mut chunks = body.take().map_err(Error::internal)?.into_bytes_stream();
        let permits = |bytes: usize| {
            let permits = u32::try_from(bytes).map_err(|_| ApiError::TooManyBodies)?;
            limit.try_acquire_many(permits).map_err(|_| ApiError::TooManyBodies)
        };
        // Takes permits for the bytes received, not for the declared `Content-Length`. Fails instead of waiting for
        // permits, so that partly read bodies cannot deadlock.
        let mut read = Self { bytes: Vec::new(), permit: permits(0)? };
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk
                .map_err(|error| ApiError::MalformedBody(format!("The body could not be read: {error}")))?;
            if read.bytes.len() + chunk.len() > max_bytes {
                return Err(ApiError::BodyTooLarge { limit: max_bytes });
            }
            read.permit.merge(permits(chunk.len())?);
            read.bytes.extend_from_slice(&chunk);
        }
        Ok(read)
    }
}

/// Reads the body into memory and puts it back, so that the operation can read it again. Does not read a body whose
/// `Content-Length` is above [`MAX_DECLARED_BYTES`]. An extractor calls this before a step that must run only after the client
/// has sent the whole body.
///
/// # Errors
/// As [`peek`].
pub(super) async fn buffer(request: &Request, body: &mut RequestBody) -> Result<()> {
    let headers = request.headers();
    let announced = headers.get(header::CONTENT_LENGTH).and_then(length);
    // A longer body is not read here: an operation that reads its body refuses the body by its `Content-Length`.
    let is_expected = announced.is_some_and(|length| (1..=MAX_DECLARED_BYTES).contains(&length));
    if is_expected || headers.contains_key(header::TRANSFER_ENCODING) {
        peek(request, body, |_| ()).await?;
    }
    Ok(())
}

/// Reads the body into memory and puts it back, so that the operation can read it again. Calls `look` with the bytes, and
/// returns the result of `look`.
///
/// # Errors
/// As [`BodyBytes::read`] with the limit [`MAX_DECLARED_BYTES`].
pub(super) async fn peek<T>(
    request: &Request,
    body: &mut RequestBody,
    look: impl FnOnce(&[u8]) -> T,
) -> Result<T> {
    let BodyBytes { bytes, permit } = BodyBytes::read(request, body, MAX_DECLARED_BYTES).await?;
    let seen = look(&bytes);
    let chunk = async move {
        // The body keeps the permits of its bytes until the operation reads it again, or the body is dropped.
        let _permit = permit;
        Ok::<_, std::io::Error>(bytes)
    };
    *body = RequestBody::new(poem::Body::from_bytes_stream(stream::once(chunk)));
    Ok(seen)
}

/// Refuses a body with a `Content-Encoding` such as gzip (RFC 9110 section 8.4). The coding `identity` means that the
/// body is not encoded.
fn refuse_encoded(request: &Request) -> Result<()> {
    let mut codings = items(request.headers(), header::CONTENT_ENCODING, b',');
    match codings.all(|coding| coding.is_empty() || coding.eq_ignore_ascii_case(b"identity")) {
        true => Ok(()),
        false => Err(ApiError::UnsupportedEncoding),
    }
}

async fn in_time<T>(timeout: Duration, read: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::time::timeout(timeout, read).await.map_err(|_| ApiError::BodyTimeout)?
}

fn length(value: &HeaderValue) -> Option<usize> {
    value.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt, Stream};
    use tokio::sync::mpsc;

    use super::*;

    const CHUNK: &[u8] = &[b'x'; 100];

    fn request_of(chunks: impl Stream<Item = &'static [u8]> + Send + 'static) -> (Request, RequestBody) {
        let chunks = chunks.map(Ok::<_, std::io::Error>);
        Request::builder().body(poem::Body::from_bytes_stream(chunks)).split()
    }

    fn memory_limit(bytes: usize) -> &'static Semaphore {
        Box::leak(Box::new(Semaphore::new(bytes)))
    }

    #[tokio::test]
    async fn a_body_that_does_not_arrive_times_out() {
        let (request, mut body) = request_of(stream::pending());
        let read = BodyBytes::collect(&request, &mut body, 1_000, memory_limit(1_000));
        let read = in_time(Duration::from_millis(50), read).await;
        assert!(matches!(read, Err(ApiError::BodyTimeout)));
    }

    #[tokio::test]
    async fn a_body_without_a_length_is_refused_above_the_limit() {
        for (max_bytes, fits) in [(300, true), (299, false)] {
            let (request, mut body) = request_of(stream::iter([CHUNK; 3]));
            let read = BodyBytes::collect(&request, &mut body, max_bytes, memory_limit(10_000)).await;
            assert_eq!(read.is_ok(), fits);
            assert!(fits || matches!(read, Err(ApiError::BodyTooLarge { limit: 299 })));
        }
        // The limit also applies to an endless body.
        let (request, mut body) = request_of(stream::repeat(CHUNK));
        let read = BodyBytes::collect(&request, &mut body, 1_000, memory_limit(10_000)).await;
        assert!(matches!(read, Err(ApiError::BodyTooLarge { .. })));
    }

    #[tokio::test]
    async fn request_bodies_share_one_memory_limit() {
        let bound = memory_limit(250);
        let one_chunk = || request_of(stream::iter([CHUNK]));
        let (request, mut body) = one_chunk();
        let held = BodyBytes::collect(&request, &mut body, 1_000, bound).await.unwrap();
        assert_eq!((held.len(), bound.available_permits()), (100, 150));
        let (request, mut body) = one_chunk();
        drop(BodyBytes::collect(&request, &mut body, 1_000, bound).await.unwrap());
        assert_eq!(bound.available_permits(), 150, "a dropped body releases its permits");

        let (request, mut body) = request_of(stream::iter([CHUNK; 2]));
        let refused = BodyBytes::collect(&request, &mut body, 1_000, bound).await;
        assert!(matches!(refused, Err(ApiError::TooManyBodies)));
        assert_eq!(bound.available_permits(), 150, "a refused body releases its permits");
    }

    #[tokio::test]
    async fn a_buffered_body_can_be_read_again_within_the_limit_of_the_operation() {
        let (mut request, mut body) = request_of(stream::iter([CHUNK; 2]));
        request.headers_mut().insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        buffer(&request, &mut body).await.unwrap();
        let bound = memory_limit(1_000);
        let read = BodyBytes::collect(&request, &mut body, 200, bound).await.unwrap();
        assert_eq!((read.len(), bound.available_permits()), (200, 800));
    }

    #[tokio::test]
    async fn a_client_that_hangs_up_releases_its_bytes() {
        let bound = memory_limit(250);
        let (send, receive) = mpsc::unbounded_channel();
        send.send(CHUNK).unwrap();
        let chunks = stream::unfold(receive, async |mut receive| Some((receive.recv().await?, receive)));
        let (request, mut body) = request_of(Box::pin(chunks));
        let mut read = Box::pin(BodyBytes::collect(&request, &mut body, 1_000, bound));
        assert!(read.as_mut().now_or_never().is_none());
        assert_eq!(bound.available_permits(), 150);
        drop(read);
        assert_eq!(bound.available_permits(), 250);
        drop(send);
    }
}
