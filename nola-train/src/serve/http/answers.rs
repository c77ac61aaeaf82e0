//! Texts in the shapes of completions and chats, whole or as events.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::Json;
use axum::body::{Body, Bytes, HttpBody};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use hyper::body::Frame;
use serde_json::{Value, json};

use super::errors::ApiError;
use super::sampling::Delivery;
use super::scores::{self, ScoredToken};
use super::texts::{FinishReason, Part, Texts, Usage};

/// What was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Completion,
    Chat,
}

impl Shape {
    /// How the ids of answers begin.
    pub(super) fn prefix(self) -> &'static str {
        match self {
            Self::Completion => "cmpl",
            Self::Chat => "chatcmpl",
        }
    }
}

/// What is the same in every part of an answer.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub shape: Shape,
    pub id: String,
    /// Seconds since 1970.
    pub created: u64,
    pub model: String,
    pub delivery: Delivery,
    /// Whether probabilities are returned.
    pub has_scores: bool,
}

impl Answer {
    /// Answers with texts.
    pub(super) async fn with(self, texts: Texts) -> Result<Response, ApiError> {
        if self.delivery.is_streamed() {
            let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-cache")];
            return Ok((headers, Body::new(Events::new(self, texts))).into_response());
        }
        Ok(Json(self.whole(texts).await?).into_response())
    }

    async fn whole(&self, mut texts: Texts) -> Result<Value, ApiError> {
        let empty = || (String::new(), Vec::new(), FinishReason::Length);
        let mut whole: Vec<(String, Vec<ScoredToken>, FinishReason)> =
            (0..texts.len()).map(|_| empty()).collect();
        while let Some(part) = texts.part().await {
            let Part { index, text, tokens, finish } = part?;
            let (all, scored, end) = &mut whole[index];
            all.push_str(&text);
            scored.extend(tokens);
            *end = finish.unwrap_or(*end);
        }
        let choice = |(index, (text, tokens, finish)): (usize, (String, Vec<ScoredToken>, FinishReason))| {
            let mut choice = match self.shape {
                Shape::Completion => json!({"index": index, "text": text}),
                Shape::Chat => {
                    json!({"index": index, "message": {"role": "assistant", "content": text, "refusal": null}})
                }
            };
            choice["logprobs"] = self.scores(&tokens);
            choice["finish_reason"] = finish.name().into();
            choice
        };
        let choices: Vec<Value> = whole.into_iter().enumerate().map(choice).collect();
        let mut answer = self.head(false);
        answer["choices"] = choices.into();
        answer["usage"] = usage(texts.usage());
        Ok(answer)
    }

    fn head(&self, is_chunk: bool) -> Value {
        let object = match (self.shape, is_chunk) {
            (Shape::Completion, _) => "text_completion",
            (Shape::Chat, false) => "chat.completion",
            (Shape::Chat, true) => "chat.completion.chunk",
        };
        json!({"id": self.id, "object": object, "created": self.created, "model": self.model})
    }

    fn scores(&self, tokens: &[ScoredToken]) -> Value {
        match (self.has_scores, self.shape) {
            (false, _) => Value::Null,
            (true, Shape::Completion) => scores::of_completion(tokens),
            (true, Shape::Chat) => scores::of_chat(tokens),
        }
    }

    /// A chunk with these choices.
    fn chunk(&self, choices: Vec<Value>, counts: Option<Usage>) -> Bytes {
        let mut chunk = self.head(true);
        chunk["choices"] = choices.into();
        if self.delivery == Delivery::StreamedWithUsage {
            chunk["usage"] = counts.map_or(Value::Null, usage);
        }
        event(&chunk)
    }

    /// The first chunk of a chat says who speaks.
    fn first(&self, index: usize) -> Option<Bytes> {
        let choice = || json!({"index": index, "delta": {"role": "assistant", "content": ""}, "logprobs": null, "finish_reason": null});
        (self.shape == Shape::Chat).then(|| self.chunk(vec![choice()], None))
    }

    fn part(&self, part: &Part) -> Bytes {
        let Part { index, text, tokens, finish } = part;
        let mut choice = match self.shape {
            Shape::Completion => json!({"index": index, "text": text}),
            Shape::Chat if text.is_empty() => json!({"index": index, "delta": {}}),
            Shape::Chat => json!({"index": index, "delta": {"content": text}}),
        };
        choice["logprobs"] = if tokens.is_empty() { Value::Null } else { self.scores(tokens) };
        choice["finish_reason"] = finish.map_or(Value::Null, |finish| finish.name().into());
        self.chunk(vec![choice], None)
    }
}

fn usage(Usage { prompt_tokens, completion_tokens }: Usage) -> Value {
    json!({
        "prompt_tokens": prompt_tokens, "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    })
}

fn event(value: &Value) -> Bytes {
    format!("data: {value}\n\n").into()
}

/// Texts as events; when whoever asked goes away, this is dropped, and the texts end.
struct Events {
    answer: Answer,
    texts: Texts,
    ready: VecDeque<Bytes>,
    is_over: bool,
}

impl Events {
    fn new(answer: Answer, texts: Texts) -> Self {
        let ready = (0..texts.len()).filter_map(|index| answer.first(index)).collect();
        Self { answer, texts, ready, is_over: false }
    }

    fn end(&mut self) {
        if self.answer.delivery == Delivery::StreamedWithUsage {
            self.ready.push_back(self.answer.chunk(Vec::new(), Some(self.texts.usage())));
        }
        self.ready.push_back(Bytes::from_static(b"data: [DONE]\n\n"));
        self.is_over = true;
    }
}

impl HttpBody for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = &mut *self;
        loop {
            if let Some(event) = this.ready.pop_front() {
                return Poll::Ready(Some(Ok(Frame::data(event))));
            }
            if this.is_over {
                return Poll::Ready(None);
            }
            match this.texts.poll_part(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Some(Ok(part))) => this.ready.push_back(this.answer.part(&part)),
                Poll::Ready(Some(Err(error))) => {
                    if error.ends_all() {
                        this.texts.give_up();
                    }
                    this.ready.push_back(event(&error.to_json()));
                }
                Poll::Ready(None) => this.end(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(shape: Shape, delivery: Delivery) -> Answer {
        let (id, model) = ("x-1".to_owned(), "a".to_owned());
        Answer { shape, id, created: 7, model, delivery, has_scores: false }
    }

    fn text(bytes: Bytes) -> String {
        String::from_utf8(bytes.to_vec()).expect("text")
    }

    #[test]
    fn a_part_of_a_completion_is_an_event() {
        let part =
            Part { index: 1, text: " b".to_owned(), tokens: Vec::new(), finish: Some(FinishReason::Stop) };
        let expected = "data: {\"id\":\"x-1\",\"object\":\"text_completion\",\"created\":7,\"model\":\"a\",\"choices\":[{\"index\":1,\
                        \"text\":\" b\",\"logprobs\":null,\"finish_reason\":\"stop\"}]}\n\n";
        assert_eq!(text(answer(Shape::Completion, Delivery::Streamed).part(&part)), expected);
    }

    #[test]
    fn a_chat_begins_with_who_speaks() {
        let first = answer(Shape::Chat, Delivery::Streamed).first(0).map(text).expect("a chunk");
        assert!(first.contains(r#""delta":{"role":"assistant","content":""}"#), "{first}");
        assert!(first.contains(r#""object":"chat.completion.chunk""#), "{first}");
    }

    #[test]
    fn usage_is_null_until_the_last_chunk() {
        let answer = answer(Shape::Completion, Delivery::StreamedWithUsage);
        let part = Part { index: 0, text: "b".to_owned(), tokens: Vec::new(), finish: None };
        assert!(text(answer.part(&part)).contains(r#""usage":null"#));
        let last = text(answer.chunk(Vec::new(), Some(Usage { prompt_tokens: 2, completion_tokens: 3 })));
        assert!(
            last.contains(
                r#""choices":[],"usage":{"prompt_tokens":2,"completion_tokens":3,"total_tokens":5}"#
            ),
            "{last}"
        );
    }
}
