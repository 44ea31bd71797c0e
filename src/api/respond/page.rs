//! Pages of lists.

use std::borrow::Cow;

use poem::{
    IntoResponse, Response,
    http::{HeaderValue, header},
};
use poem_openapi::{
    ApiResponse,
    registry::{MetaHeader, MetaResponses, MetaSchema, MetaSchemaRef, Registry},
    types::{ToJSON, Type},
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};

use crate::api::{
    conditional::{Tagged, response, tag_of},
    extract::{Cursor, Limit},
    problem::Result,
};

/// An item that lists return in pages.
pub(in crate::api) trait PageItem: Type + ToJSON + Sized {
    /// The name of the page's schema in the API document.
    const PAGE: &'static str;
    /// The description of the page's schema.
    const PAGE_DESCRIPTION: &'static str;

    /// Returns the item in the example of the page. If it returns `None`, the page has no example.
    fn example_item() -> Option<Self> {
        None
    }

    /// Returns the deprecated fields of the page, which release 0.1.0 introduced: name, schema and example. New lists
    /// have no such fields.
    fn deprecated_fields() -> Vec<(&'static str, MetaSchemaRef, Value)> {
        Vec::new()
    }
}

/// One page of a list. The header `Link` leads to the next page (RFC 8288). The page has an entity tag, so that a client that
/// polls the list reads the page again only if the page has changed.
pub(in crate::api) struct Page<T> {
    items: Vec<T>,
    next: Next,
    limit: Limit,
    deprecated: Map<String, Value>,
}

/// The cursor of the next page, and the header `Link` with its URL. Both are `None` on the last page.
#[derive(Default)]
struct Next {
    cursor: Option<String>,
    link: Option<HeaderValue>,
}

impl Next {
    fn new(cursor: &Cursor, limit: u32, position: Option<impl Serialize>) -> Self {
        let Some(position) = position else { return Self::default() };
        let (text, target) = cursor.next(&position, limit);
        // The URL has no scheme and host, like the URL in `Location`, because a proxy may have another scheme and host.
        let link = HeaderValue::try_from(format!("<{target}>; rel=\"next\"")).ok();
        Self { cursor: Some(text), link }
    }

    fn add_to(self, mut response: Response) -> Response {
        response.headers_mut().extend(self.link.map(|link| (header::LINK, link)));
        response
    }
}

impl<T> Page<T> {
    /// Creates a page of rows that were read after the position of `cursor`. If there are more than `limit` rows, there
    /// is a next page. `position` returns the position of a row, such as its id.
    pub(in crate::api) fn of<R: Into<T>, P: Serialize>(
        cursor: &Cursor,
        limit: Limit,
        mut rows: Vec<R>,
        position: impl FnOnce(&R) -> P,
    ) -> Self {
        let size = limit.0 as usize;
        let has_more = rows.len() > size;
        rows.truncate(size);
        let next = rows.last().filter(|_| has_more).map(position);
        Self::new(cursor, limit, rows, next)
    }

    /// Creates a page. `next` is the position after which the next page begins, or `None` on the last page.
    pub(in crate::api) fn new(
        cursor: &Cursor,
        limit: Limit,
        rows: impl IntoIterator<Item: Into<T>>,
        next: Option<impl Serialize>,
    ) -> Self {
        let items = rows.into_iter().map(Into::into).collect();
        Self { items, next: Next::new(cursor, limit.0, next), limit, deprecated: Map::new() }
    }

    /// Creates a page from all rows of a short list. `position` is as in [`ArrayPage::of`].
    ///
    /// # Errors
    /// As [`Cursor::after`].
    pub(in crate::api) fn of_all<R: Into<T>, P: Serialize + DeserializeOwned + Ord>(
        cursor: &Cursor,
        limit: Limit,
        rows: Vec<R>,
        position: impl Fn(&R) -> P,
    ) -> Result<Self> {
        let (rows, next) = cut(cursor, Some(limit), rows, position)?;
        Ok(Self::new(cursor, limit, rows, next))
    }

    /// Adds one of [`PageItem::deprecated_fields`].
    pub(in crate::api) fn with_deprecated(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.deprecated.insert(name.into(), value.into());
        self
    }
}

impl<T: PageItem> ToJSON for Page<T> {
    fn to_json(&self) -> Option<Value> {
        let mut page = json!({
            "items": self.items.to_json(),
            "next_cursor": self.next.cursor,
            "limit": self.limit.0,
        });
        if let Value::Object(fields) = &mut page {
            fields.extend(self.deprecated.clone());
        }
        Some(page)
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
            let next_cursor = MetaSchema {
                description: Some("The parameter `cursor` of the next page; null on the last page."),
                nullable: true,
                ..MetaSchema::ANY
            };
            let limit = MetaSchema {
                description: Some("The most items that this page can have."),
                ..MetaSchema::ANY
            };
            let mut properties = vec![
                ("items", Vec::<T>::schema_ref()),
                ("next_cursor", String::schema_ref().merge(next_cursor)),
                ("limit", u64::schema_ref().merge(limit)),
            ];
            let items: Vec<T> = T::example_item().into_iter().collect();
            let has_example = !items.is_empty();
            let mut example = Self::of(&Cursor::first_page(), Limit::default(), items, |_| 0);
            for (name, schema, value) in T::deprecated_fields() {
                properties.push((name, schema.merge(MetaSchema { deprecated: true, ..MetaSchema::ANY })));
                example = example.with_deprecated(name, value);
            }
            MetaSchema {
                title: Some(T::PAGE.into()),
                description: Some(T::PAGE_DESCRIPTION),
                required: vec!["items", "next_cursor", "limit"],
                properties,
                example: example.to_json().filter(|_| has_example),
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

impl<T: PageItem> IntoResponse for Page<T> {
    fn into_response(mut self) -> Response {
        let next = std::mem::take(&mut self.next);
        // The body contains the cursor, too.
        self.next.cursor = next.cursor.clone();
        next.add_to(Tagged(self).into_response())
    }
}

impl<T: PageItem> ApiResponse for Page<T> {
    fn meta() -> MetaResponses {
        with_link(Tagged::<Self>::meta())
    }

    fn register(registry: &mut Registry) {
        <Self as Type>::register(registry);
    }
}

/// One page of a list whose body is an array, as in release 0.1.0. Only the header `Link` contains the cursor of the
/// next page. New lists return [`Page`] instead.
pub(in crate::api) struct ArrayPage<T> {
    items: Vec<T>,
    next: Next,
}

impl<T> ArrayPage<T> {
    /// Creates a page from all rows of a list. `position` returns the sort key of a row. The list is sorted by this key in
    /// ascending order. Without a limit, the page has all rows after the cursor.
    ///
    /// # Errors
    /// As [`Cursor::after`].
    pub(in crate::api) fn of<R: Into<T>, P: Serialize + DeserializeOwned + Ord>(
        cursor: &Cursor,
        limit: Option<Limit>,
        rows: Vec<R>,
        position: impl Fn(&R) -> P,
    ) -> Result<Self> {
        let (rows, last) = cut(cursor, limit, rows, position)?;
        let next = Next::new(cursor, limit.unwrap_or_default().0, last);
        Ok(Self { items: rows.into_iter().map(Into::into).collect(), next })
    }
}

/// Returns the rows of one page from all rows of a list. Also returns the position of the last row of the page if there
/// is a next page.
fn cut<R, P: Serialize + DeserializeOwned + Ord>(
    cursor: &Cursor,
    limit: Option<Limit>,
    mut rows: Vec<R>,
    position: impl Fn(&R) -> P,
) -> Result<(Vec<R>, Option<P>)> {
    rows.sort_by_key(&position);
    if let Some(after) = cursor.after::<P>()? {
        rows.retain(|row| position(row) > after);
    }
    let size = limit.map_or(usize::MAX, |limit| limit.0 as usize);
    let has_more = rows.len() > size;
    rows.truncate(size);
    let last = rows.last().filter(|_| has_more).map(position);
    Ok((rows, last))
}

impl<T: ToJSON> IntoResponse for ArrayPage<T> {
    fn into_response(self) -> Response {
        let json = self.items.to_json_string();
        // The body has no cursor, so the tag also covers the cursor in the header `Link`.
        let tag = tag_of(&format!("{json}{}", self.next.cursor.as_deref().unwrap_or_default()));
        self.next.add_to(response::<Vec<T>>(json, &tag))
    }
}

impl<T: ToJSON> ApiResponse for ArrayPage<T> {
    fn meta() -> MetaResponses {
        with_link(Tagged::<Vec<T>>::meta())
    }

    fn register(registry: &mut Registry) {
        Vec::<T>::register(registry);
    }
}

/// Documents the header `Link`.
fn with_link(mut meta: MetaResponses) -> MetaResponses {
    for response in &mut meta.responses {
        response.headers.push(MetaHeader {
            name: "Link".into(),
            description: None,
            required: false,
            deprecated: false,
            schema: String::schema_ref(),
        });
    }
    meta
}
