//! `/v1/completions`: prompts are continued.

use axum::extract::{Request, State};
use axum::response::Response;
use serde_json::Value;

use super::answers::Shape;
use super::body::MOST_TEXT_BYTES;
use super::errors::ApiError;
use super::fields::{Fields, whole, wrong_type};
use super::sampling::{MOST_SCORES, Sampling};
use super::{App, Asked, TextService};
use crate::Error;
use crate::adapter_data::AdapterData;
use crate::prompt::{self, GivenBy, Reading};
use crate::serve::ServedAdapter;
use crate::settings::DataFormat;
use crate::text::{TextError, TextFormat};

/// Answers a completion.
pub(super) async fn complete(State(app): State<App>, request: Request) -> Result<Response, ApiError> {
    let text = app.text()?;
    let body = app.room.json(request, MOST_TEXT_BYTES).await?;
    let mut fields = Fields::parse(&body.bytes)?;
    let model = Fields::required("model", fields.take_text("model")?)?;
    let sampling = Sampling::take(&mut fields, &text.generation)?;
    let top_scores = fields.take_count("logprobs", 0..=MOST_SCORES)?;
    let prompts = Prompts::take(&mut fields)?;
    fields.finish()?;
    text.check_count(prompts.prompts.len().max(1), sampling.texts)?;
    let adapter = app.adapter(&model).await?;
    let (service, of) = (text.clone(), adapter.clone());
    let prompts = body.blocking(move || prompts.tokens(of.as_deref(), &service)).await??;
    app.answer(Asked { shape: Shape::Completion, model, adapter, sampling, top_scores }, prompts).await
}

/// What is to be continued.
#[derive(Debug, PartialEq)]
struct Prompts {
    prompts: Vec<Prompt>,
    /// Whether they stand as they are, whatever the adapter was trained on.
    are_raw: bool,
    /// The texts of columns, for an adapter that was trained on a template with several.
    columns: Vec<(String, String)>,
}

#[derive(Debug, PartialEq)]
enum Prompt {
    Text(String),
    Tokens(Vec<u32>),
}

impl Prompts {
    fn take(fields: &mut Fields) -> Result<Self, ApiError> {
        let prompt = fields.take("prompt");
        let are_raw = fields.take_flag("raw")?.unwrap_or(false);
        let columns = match fields.take("columns") {
            None => Vec::new(),
            Some(Value::Object(columns)) => columns
                .into_iter()
                .map(|(name, text)| match text {
                    Value::String(text) => Ok((name, text)),
                    other => Err(wrong_type(&format!("columns.{name}"), "a text", &other)),
                })
                .collect::<Result<_, _>>()?,
            Some(other) => return Err(wrong_type("columns", "an object of texts", &other)),
        };
        // Where each column of a template is given, nothing is left for a prompt.
        let prompts = match prompt {
            None if !columns.is_empty() => Vec::new(),
            prompt => prompts_of(Fields::required("prompt", prompt)?)?,
        };
        Ok(Self { prompts, are_raw, columns })
    }

    /// The tokens of each, written as the adapter was trained.
    fn tokens(
        self,
        adapter: Option<&ServedAdapter>,
        service: &TextService,
    ) -> Result<Vec<Vec<u32>>, ApiError> {
        let data = match adapter {
            Some(adapter) => adapter.data.as_ref(),
            None => service.base_data.as_ref(),
        };
        let of_prompt = |error: Error| ApiError::of_prompt("prompt", &error);
        let reading = self.reading(data).map_err(of_prompt)?;
        let system = data.map(|data| data.system.as_str()).unwrap_or_default();
        let has_template = reading == Reading::Row(TextFormat::Template);
        let are_tokens = self.prompts.iter().any(|prompt| matches!(prompt, Prompt::Tokens(_)));
        if !self.columns.is_empty() && (!has_template || are_tokens) {
            let message =
                "`columns` are for adapters that were trained on a template, and for prompts in text";
            return Err(ApiError::value("columns", message));
        }
        let tokens_of = |text: &str| prompt::tokens(text, reading, system, &service.encoder);
        let read = |prompt: &[String]| -> Result<Vec<u32>, ApiError> {
            let text = filled(reading, data, &self.columns, prompt).map_err(of_prompt)?;
            tokens_of(&Fields::required("prompt", text)?).map_err(of_prompt)
        };
        if self.prompts.is_empty() {
            return Ok(vec![read(&[])?]);
        }
        let tokens = |prompt| match prompt {
            Prompt::Tokens(tokens) => Ok(tokens),
            Prompt::Text(text) => read(&[text]),
        };
        self.prompts.into_iter().map(tokens).collect()
    }

    fn reading(&self, data: Option<&AdapterData>) -> Result<Reading, Error> {
        match data.map(|data| data.format).filter(|_| !self.are_raw) {
            None => Ok(Reading::Plain),
            Some(DataFormat::Text(format)) => Ok(Reading::Row(format)),
            Some(format @ DataFormat::Images(_)) => {
                Err(TextError::NoText { format: format.to_string() }.into())
            }
        }
    }
}

/// The template of the adapter, filled with the prompt, if it leaves room for one, and what other columns it has; nothing if it
/// leaves room and there is no prompt.
fn filled(
    reading: Reading,
    data: Option<&AdapterData>,
    columns: &[(String, String)],
    prompt: &[String],
) -> Result<Option<String>, Error> {
    if reading != Reading::Row(TextFormat::Template) {
        return Ok(Some(prompt.concat()));
    }
    let template = data.map(|data| &data.template).filter(|template| !template.is_empty());
    let template = template.ok_or(TextError::NoTemplate)?;
    Ok(prompt::filled(template, GivenBy::Request, columns, prompt)?.pop())
}

/// A text, texts, tokens, or lists of tokens.
fn prompts_of(value: Value) -> Result<Vec<Prompt>, ApiError> {
    let expected = "a text, a list of texts, a list of tokens, or a list of lists of tokens";
    let list = match value {
        Value::String(text) => return Ok(vec![Prompt::Text(text)]),
        Value::Array(list) => list,
        other => return Err(wrong_type("prompt", expected, &other)),
    };
    if list.is_empty() {
        return Err(ApiError::value("prompt", format!("`prompt` is empty; it must be {expected}")));
    }
    if list.iter().all(Value::is_number) {
        return Ok(vec![Prompt::Tokens(list.iter().map(token).collect::<Result<_, _>>()?)]);
    }
    let prompt = |value: Value| match value {
        Value::String(text) => Ok(Prompt::Text(text)),
        Value::Array(tokens) => Ok(Prompt::Tokens(tokens.iter().map(token).collect::<Result<_, _>>()?)),
        other => Err(wrong_type("prompt", expected, &other)),
    };
    list.into_iter().map(prompt).collect()
}

fn token(value: &Value) -> Result<u32, ApiError> {
    let id = whole(value).and_then(|id| u32::try_from(id).ok());
    id.ok_or_else(|| ApiError::value("prompt", format!("`{value}` in `prompt` is no token of the model")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::text::{PromptTemplate, TextSettings};

    #[test]
    fn a_template_with_a_column_that_nothing_fills_makes_no_text() {
        let template = PromptTemplate::parse("{c} {q}").expect("a template");
        let settings = TextSettings { template, ..TextSettings::default() };
        let data = AdapterData::new(DataFormat::Text(TextFormat::Template), &settings, None);
        let column = |name: &str| (name.to_owned(), "x".to_owned());
        let text = |columns: &[(String, String)]| {
            filled(Reading::Row(TextFormat::Template), Some(&data), columns, &[]).expect("its columns")
        };
        assert_eq!(text(&[column("c")]), None);
        assert_eq!(text(&[column("c"), column("q")]).as_deref(), Some("x x"));
    }

    #[test]
    fn a_prompt_is_text_or_tokens_or_several() {
        let text = |text: &str| Prompt::Text(text.to_owned());
        assert_eq!(prompts_of(json!("a")), Ok(vec![text("a")]));
        assert_eq!(prompts_of(json!(["a", "b"])), Ok(vec![text("a"), text("b")]));
        assert_eq!(prompts_of(json!([1, 2])), Ok(vec![Prompt::Tokens(vec![1, 2])]));
        assert_eq!(prompts_of(json!([1.0, 2])), Ok(vec![Prompt::Tokens(vec![1, 2])]));
        assert_eq!(
            prompts_of(json!([[1], [2, 3]])),
            Ok(vec![Prompt::Tokens(vec![1]), Prompt::Tokens(vec![2, 3])])
        );
        for wrong in
            [json!(3), json!({}), json!([]), json!([null]), json!([1, "a"]), json!([-1]), json!([[1.5]])]
        {
            assert!(prompts_of(wrong.clone()).is_err(), "{wrong}");
        }
    }
}
