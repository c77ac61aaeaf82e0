//! `/v1/images/classify`: what is on an image.

use std::path::Path;
use std::sync::Arc;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Multipart, Request, State};
use axum::http::StatusCode;
use base64::Engine as _;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use nola_models::image::decode;
use serde::Serialize;
use serde_json::{Map, Value};
use tokio::sync::Semaphore;

use super::App;
use super::body::{HeldBody, MOST_IMAGE_BYTES, content_type};
use super::errors::ApiError;
use super::fields::Fields;
use crate::session::Class;

/// Classes that are named where the request does not say, as in Hugging Face's pipeline.
const TOP: usize = 5;

/// Images that are decoded at a time; each may take 256 MiB.
const MOST_DECODED: usize = 4;

/// Base64 with or without the signs at its end.
const BASE64: GeneralPurpose = {
    let padding = GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    GeneralPurpose::new(&STANDARD, padding)
};

/// A bound on the memory of images that are being decoded.
#[derive(Debug)]
pub(super) struct Decoding(Arc<Semaphore>);

impl Default for Decoding {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MOST_DECODED)))
    }
}

/// A class as Hugging Face's pipeline names it.
#[derive(Debug, Serialize)]
pub(super) struct Labelled {
    label: String,
    score: f32,
}

/// Answers with classes and scores.
pub(super) async fn classify(
    State(app): State<App>,
    request: Request,
) -> Result<Json<Vec<Labelled>>, ApiError> {
    let classifier = app.classifier()?;
    let (mut fields, image, held) = match content_type(request.headers()) {
        Some("multipart/form-data") => parts(&app, request).await?,
        _ => object(&app, request).await?,
    };
    let model = Fields::required("model", fields.take_text("model")?)?;
    let top = fields.take_count("top_k", 1..=u32::MAX)?.unwrap_or(TOP);
    fields.finish()?;
    let adapter = app.adapter(&model).await?;
    if adapter.is_none() && classifier.labels.is_empty() {
        let message = "the base model has no classes; name an adapter";
        return Err(ApiError::field("model", "no_classes", message));
    }
    // The semaphore is never closed.
    let place = Arc::clone(&app.decoding.0).acquire_owned().await.ok();
    let preprocessor = classifier.preprocessor.clone();
    let evaluate = move || {
        // Free when the image is decoded, also if whoever asked has gone meanwhile.
        let _place = place;
        decode(&image, Path::new("image")).map(|image| preprocessor.evaluate(&image))
    };
    let input = held.blocking(evaluate).await?.map_err(|error| {
        ApiError::field("image", "invalid_image", crate::Error::from(error).with_sources())
    })?;
    let classes = classifier.submit(adapter, input, top)?.await;
    let classes = classes.map_err(|_| ApiError::failed("the classifier ended"))?.map_err(ApiError::failed)?;
    let named = |Class { name, probability }: Class| Labelled { label: name, score: probability };
    Ok(Json(classes.into_iter().map(named).collect()))
}

/// The fields of a form; `image` is a file.
async fn parts(app: &App, request: Request) -> Result<(Fields, Bytes, HeldBody), ApiError> {
    let wrong = |message: String| ApiError::new(StatusCode::BAD_REQUEST, "invalid_form", message);
    let (head, body) = request.into_parts();
    let held = app.room.read(body, MOST_IMAGE_BYTES).await?;
    let request = Request::from_parts(head, Body::from(held.bytes.clone()));
    let mut form = Multipart::from_request(request, &()).await.map_err(|error| wrong(error.body_text()))?;
    let (mut fields, mut image) = (Map::new(), None);
    while let Some(field) = form.next_field().await.map_err(|error| wrong(error.body_text()))? {
        let name = field.name().unwrap_or_default().to_owned();
        if name == "image" {
            image = Some(field.bytes().await.map_err(|error| wrong(error.body_text()))?);
            continue;
        }
        let text = field.text().await.map_err(|error| wrong(error.body_text()))?;
        let number = (name == "top_k").then(|| text.trim().parse::<u64>().ok()).flatten();
        fields.insert(name, number.map_or(Value::String(text), Value::from));
    }
    Ok((Fields::of(fields), Fields::required("image", image)?, held))
}

/// The fields of an object; `image` is base64, or a URL with the data in it.
async fn object(app: &App, request: Request) -> Result<(Fields, Bytes, HeldBody), ApiError> {
    let held = app.room.json(request, MOST_IMAGE_BYTES).await?;
    let mut fields = Fields::parse(&held.bytes)?;
    let text = Fields::required("image", fields.take_text("image")?)?;
    Ok((fields, decoded(&text)?.into(), held))
}

/// The bytes of an image in text.
fn decoded(text: &str) -> Result<Vec<u8>, ApiError> {
    let wrong = |message| Err(ApiError::field("image", "invalid_image", message));
    let base64 = match text.strip_prefix("data:") {
        Some(rest) => match rest.split_once(";base64,") {
            Some((_, data)) => data,
            None => return wrong("`image` is a data URL without `;base64,`"),
        },
        None if text.starts_with("http:") || text.starts_with("https:") => {
            return wrong(
                "`image` is an address; nothing is fetched, so send the image itself in base64, or as a form",
            );
        }
        None => text,
    };
    BASE64.decode(base64.trim()).or_else(|_| wrong("`image` is no base64"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_base64_or_a_url_with_data() {
        for text in ["aGk=", "aGk", " aGk=\n", "data:image/png;base64,aGk="] {
            assert_eq!(decoded(text), Ok(b"hi".to_vec()), "{text}");
        }
        for text in ["?", "data:image/png,hi", "https://example.org/a.png"] {
            assert!(decoded(text).is_err(), "{text}");
        }
    }
}
