//! Responses that several resources share.

use std::borrow::Cow;

use poem_openapi::{
    ApiResponse, Object,
    payload::Json,
    registry::{MetaSchema, MetaSchemaRef, Registry},
    types::{Example, ToJSON, Type},
};
use serde_json::{Value, json};

use super::extract::{Limit, Offset};

const MAIL_SENT_IF_REGISTERED: &str = "If the address is registered, a mail was sent";

/// The request was accepted.
#[derive(Object)]
#[oai(rename = "Accepted", example)]
pub(super) struct AcceptedMessage {
    message: String,
}

impl Example for AcceptedMessage {
    fn example() -> Self {
        Self { message: MAIL_SENT_IF_REGISTERED.into() }
    }
}

/// A response with status 202.
#[derive(ApiResponse)]
pub(super) enum Accepted {
    /// Same response whether or not the address is registered.
    #[oai(status = 202)]
    MailSentIfRegistered(Json<AcceptedMessage>),
}

impl Accepted {
    pub(super) fn mail_sent_if_registered() -> Self {
        Self::MailSentIfRegistered(Json(AcceptedMessage { message: MAIL_SENT_IF_REGISTERED.into() }))
    }
}

/// An item that lists return in pages.
pub(super) trait PageItem: Type + ToJSON + Example {
    /// The name of the page's schema in the API document.
    const PAGE: &'static str;
    /// The description of the page's schema.
    const PAGE_DESCRIPTION: &'static str;
    /// The description of the field `total`.
    const TOTAL_DESCRIPTION: &'static str = "Number of items on all pages.";
}

/// One page of a list.
pub(super) struct Page<T> {
    items: Vec<T>,
    total: u64,
    offset: Offset,
    limit: Limit,
}

impl<T> Page<T> {
    /// Creates a page. `total` is the number of items on all pages.
    pub(super) fn new(
        items: impl IntoIterator<Item: Into<T>>,
        total: u64,
        offset: Offset,
        limit: Limit,
    ) -> Self {
        Self { items: items.into_iter().map(Into::into).collect(), total, offset, limit }
    }
}

impl<T: PageItem> ToJSON for Page<T> {
    fn to_json(&self) -> Option<Value> {
        Some(json!({
            "items": self.items.to_json(),
            "total": self.total,
            "offset": self.offset.0,
            "limit": self.limit.0,
        }))
    }
}

impl<T: PageItem> Type for Page<T> {
    const IS_REQUIRED: bool = true;
    type RawValueType = Self;
    type RawElementValueType = Self;

    fn name() -> Cow<'static, str> {
        T::PAGE.into()
    }

    fn schema_ref() -> MetaSchemaRef {
        MetaSchemaRef::Reference(T::PAGE.into())
    }

    fn register(registry: &mut Registry) {
        registry.create_schema::<Self, _>(T::PAGE.into(), |registry| {
            T::register(registry);
            let total = MetaSchema { description: Some(T::TOTAL_DESCRIPTION), ..MetaSchema::ANY };
            let example = Self::new([T::example()], 1, Offset::default(), Limit::default());
            MetaSchema {
                title: Some(T::PAGE.into()),
                description: Some(T::PAGE_DESCRIPTION),
                required: vec!["items", "total", "offset", "limit"],
                properties: vec![
                    ("items", Vec::<T>::schema_ref()),
                    ("total", u64::schema_ref().merge(total)),
                    ("offset", u64::schema_ref()),
                    ("limit", u64::schema_ref()),
                ],
                example: example.to_json(),
                ..MetaSchema::new("object")
            }
        });
    }

    fn as_raw_value(&self) -> Option<&Self> {
        Some(self)
    }

    fn raw_element_iter<'a>(&'a self) -> Box<dyn Iterator<Item = &'a Self> + 'a> {
        Box::new(std::iter::once(self))
    }
}
