use std::path::Path;

use super::*;
use crate::chat::{ChatTemplate, Conversation, Message, Prompt};
use crate::gguf_file::{Entry, GgufFile, GgufTensor};
use crate::sentence_piece::{Model, PieceKind};
use crate::shared::shared;
use crate::tokenizer::{DecodeSpecials, Specials, Tokenizer, TokenizerError};

const TEXTS: [&str; 6] = [
    "Hello world, it's 12 plus 345.\n\n  Two  spaces",
    "Café déjà vu 日本語 🙂👍🏽",
    "don't DON'T\tx\r\n  \n",
    "",
    "a</s>b <|end|>  c",
    "1234567890 = 3.14!!",
];

/// A file with this much of a tokenizer, in a folder of its own.
fn written(file: &GgufFile) -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    std::fs::write(&path, file.bytes()).unwrap();
    (folder, path)
}

fn opened(file: &GgufFile) -> Result<Tokenizer, TokenizerError> {
    let (_folder, path) = written(file);
    Tokenizer::open(&path)
}

fn ids(file: &GgufFile, text: &str) -> Vec<u32> {
    opened(file).unwrap().encode(text, Specials::AsModel).unwrap()
}

fn refusal(file: &GgufFile) -> String {
    opened(file).unwrap_err().to_string()
}

/// A file without a tokenizer.
fn of_architecture() -> GgufFile {
    let mut file = GgufFile::default();
    file.set("general.architecture", "llama");
    for architecture in ["llama", "phi3"] {
        for name in ["context_length", "embedding_length", "block_count", "feed_forward_length"] {
            file.set(&format!("{architecture}.{name}"), 2);
        }
        file.set(&format!("{architecture}.attention.head_count"), 1);
        file.set(&format!("{architecture}.attention.layer_norm_rms_epsilon"), 1e-5);
    }
    file.tensors.push(GgufTensor::of_f32("token_embd.weight", &[300, 2], &[0.0; 600]));
    file
}

/// All bytes as tokens, then `ab`, `12`, `123` and `<|end|>`, which begins and ends texts.
fn bytes(pre: &str) -> GgufFile {
    let mut letters: Vec<String> =
        tokenizers::pre_tokenizers::byte_level::ByteLevel::alphabet().into_iter().map(String::from).collect();
    letters.sort();
    let more = ["ab", "12", "123", "<|end|>"].map(str::to_owned);
    let tokens: Vec<String> = letters.into_iter().chain(more).collect();
    let mut file = of_architecture();
    file.set("tokenizer.ggml.model", "gpt2");
    file.set("tokenizer.ggml.pre", pre);
    let types = (0..tokens.len()).map(|id| if id == 259 { 3 } else { 1 }).collect();
    file.set("tokenizer.ggml.tokens", Entry::Texts(tokens));
    file.set("tokenizer.ggml.token_type", Entry::I32s(types));
    file.set("tokenizer.ggml.merges", &["a b", "1 2", "12 3"][..]);
    file.set("tokenizer.ggml.bos_token_id", 259);
    file.set("tokenizer.ggml.eos_token_id", 259);
    file
}

#[test]
fn each_pre_tokenizer_splits_numbers_its_own_way() {
    let tokens = |pre: &str| {
        let tokenizer = opened(&bytes(pre)).unwrap();
        let ids = tokenizer.encode("ab1234", Specials::None).unwrap();
        ids.into_iter().map(|id| tokenizer.token(id).unwrap()).collect::<Vec<_>>()
    };
    for (names, expected) in [
        (&["gpt-2", "phi-2"][..], &["ab", "123", "4"][..]),
        (&["smollm", "qwen2", "deepseek-r1-qwen", "tekken"], &["ab", "1", "2", "3", "4"]),
        (&["llama-bpe", "smaug-bpe", "dbrx", "default"], &["ab", "123", "4"]),
    ] {
        for name in names {
            assert_eq!(tokens(name), expected, "{name}");
        }
    }
    let mut without = bytes("gpt-2");
    without.remove("tokenizer.ggml.pre");
    assert_eq!(opened(&without).unwrap().encode("ab", Specials::None).unwrap(), [256]);
}

#[test]
fn every_text_comes_back_through_every_pre_tokenizer() {
    for pre in ["default", "gpt-2", "smollm", "llama-bpe", "smaug-bpe", "deepseek-r1-qwen", "tekken"] {
        let tokenizer = opened(&bytes(pre)).unwrap();
        for text in TEXTS {
            let ids = tokenizer.encode(text, Specials::None).unwrap();
            assert_eq!(tokenizer.decode(&ids, DecodeSpecials::Keep).unwrap(), text, "{pre}");
        }
    }
}

#[test]
fn the_tokens_around_a_text_are_those_of_the_file_else_of_the_pre_tokenizer() {
    assert_eq!(ids(&bytes("gpt-2"), "ab"), [256]);
    assert_eq!(ids(&bytes("llama-bpe"), "ab"), [259, 256]);
    for (flags, expected) in [([true, true], &[259, 256, 259][..]), ([false, true], &[256, 259])] {
        let mut file = bytes("llama-bpe");
        file.set("tokenizer.ggml.add_bos_token", flags[0]);
        file.set("tokenizer.ggml.add_eos_token", flags[1]);
        assert_eq!(ids(&file, "ab"), expected);
    }
    assert_eq!(ids(&bytes("gpt-2"), "ab<|end|>"), [256, 259]);
}

#[test]
fn an_unknown_pre_tokenizer_or_kind_of_vocabulary_is_told_what_there_is() {
    let message = refusal(&bytes("falcon"));
    assert!(
        message.contains("`tokenizer.ggml.pre` is \"falcon\"") && message.contains("`llama-bpe`"),
        "{message}"
    );
    let mut file = bytes("gpt-2");
    file.set("tokenizer.ggml.model", "bert");
    let message = refusal(&file);
    assert!(
        message.contains("`tokenizer.ggml.model` is \"bert\"") && message.contains("`llama`"),
        "{message}"
    );
    file.remove("tokenizer.ggml.model");
    assert!(refusal(&file).contains("`tokenizer.ggml.model` is absent"));
}

#[test]
fn tokens_merges_types_and_ids_that_do_not_fit_are_named() {
    for (key, entry, expected) in [
        ("tokenizer.ggml.merges", Entry::from(&["a c"][..]), "a list with \"a c\""),
        ("tokenizer.ggml.merges", Entry::from(&["ab"][..]), "a list with \"ab\""),
        (
            "tokenizer.ggml.tokens",
            Entry::from(&["a", "a"][..]),
            "`tokenizer.ggml.token_type` is a list of 260",
        ),
        ("tokenizer.ggml.tokens", Entry::from(7), "expected a list"),
        ("tokenizer.ggml.token_type", Entry::I32s(vec![9; 260]), "numbers from 1 to 6"),
        ("tokenizer.ggml.eos_token_id", Entry::from(260), "expected an id below 260"),
    ] {
        let mut file = bytes("gpt-2");
        file.set(key, entry);
        let message = refusal(&file);
        assert!(message.contains(expected), "{message}");
    }
    let mut file = bytes("gpt-2");
    file.remove("tokenizer.ggml.token_type");
    file.set("tokenizer.ggml.tokens", &["a", "a"][..]);
    file.set("tokenizer.ggml.bos_token_id", 0);
    file.set("tokenizer.ggml.eos_token_id", 0);
    assert!(refusal(&file).contains("\"a\" twice"));
}

#[test]
fn a_token_that_only_fills_up_the_embedding_is_none() {
    let mut file = bytes("gpt-2");
    let Some((_, Entry::Texts(tokens))) =
        file.metadata.iter_mut().find(|(key, _)| key == "tokenizer.ggml.tokens")
    else {
        panic!("texts")
    };
    tokens.push("[PAD260]".to_owned());
    let types = (0..261).map(|id| [1, 3, 5][usize::from(id >= 259) + usize::from(id == 260)]).collect();
    file.set("tokenizer.ggml.token_type", Entry::I32s(types));
    assert_eq!(opened(&file).unwrap().vocab_size(), 260);
}

#[test]
fn the_chat_template_and_its_special_tokens_come_along() {
    let mut file = bytes("gpt-2");
    file.set("tokenizer.chat_template", "{{ messages[0].content }}{{ eos_token }}");
    let rendered = |file: &GgufFile, conversation: Conversation| {
        let (_folder, path) = written(file);
        let tokenizer = Tokenizer::open(&path).unwrap();
        let template = ChatTemplate::of_folder(&path, &tokenizer).unwrap().expect("a template");
        template.render(&conversation, Prompt::Complete).unwrap()
    };
    let talk = || Conversation::new(vec![Message::new("user", "Hi")]);
    assert_eq!(rendered(&file, talk()), "Hi<|end|>");
    file.set("tokenizer.chat_template.tool_use", "tools");
    let with_tools = Conversation { tools: json!([{}]), ..talk() };
    assert_eq!(
        (rendered(&file, talk()).as_str(), rendered(&file, with_tools).as_str()),
        ("Hi<|end|>", "tools")
    );
}

/// A GGUF file with the vocabulary of a `tokenizer.model`.
fn of_model(model: &Model) -> GgufFile {
    let mut file = of_architecture();
    file.set("tokenizer.ggml.model", "llama");
    let pieces = &model.pieces;
    file.set(
        "tokenizer.ggml.tokens",
        Entry::Texts(pieces.iter().map(|piece| piece.piece().to_owned()).collect()),
    );
    file.set("tokenizer.ggml.scores", Entry::F32s(pieces.iter().map(|piece| piece.score()).collect()));
    file.set(
        "tokenizer.ggml.token_type",
        Entry::I32s(pieces.iter().map(|piece| piece.kind() as i32).collect()),
    );
    file.set("tokenizer.ggml.unknown_token_id", 0);
    file.set("tokenizer.ggml.bos_token_id", 1);
    file.set("tokenizer.ggml.eos_token_id", 2);
    file
}

#[test]
fn a_sentencepiece_vocabulary_gives_the_ids_of_its_tokenizer_model() {
    let Some(folder) = shared("assets/tokenizers/llama2") else { return };
    let bytes = std::fs::read(folder.join("tokenizer.model")).unwrap();
    let file = of_model(&prost::Message::decode(&bytes[..]).unwrap());
    let alone = tempfile::tempdir().unwrap();
    std::fs::write(alone.path().join("tokenizer.model"), &bytes).unwrap();
    let [of_file, of_folder] = [opened(&file).unwrap(), Tokenizer::open(alone.path()).unwrap()];
    for text in TEXTS {
        for specials in [Specials::AsModel, Specials::None] {
            let expected = of_folder.encode(text, specials).unwrap();
            assert_eq!(of_file.encode(text, specials).unwrap(), expected, "{text:?}");
            let decoded =
                [&of_file, &of_folder].map(|it| it.decode(&expected, DecodeSpecials::Skip).unwrap());
            assert_eq!(decoded[0], decoded[1]);
        }
    }
    assert_eq!((of_file.bos(), of_file.eos(), of_file.unknown()), (Some(1), Some(2), Some(0)));
}

/// `<unk>`, `<s>`, `</s>`, `▁`, `a`, `▁a`, `<|user|>`.
fn pieces() -> GgufFile {
    let piece = |(text, kind, score): (&str, PieceKind, f32)| crate::sentence_piece::Piece {
        piece: Some(text.to_owned()),
        score: Some(score),
        kind: Some(kind as i32),
    };
    let pieces = [
        ("<unk>", PieceKind::Unknown, 0.0),
        ("<s>", PieceKind::Control, 0.0),
        ("</s>", PieceKind::Control, 0.0),
        ("▁", PieceKind::Normal, -2.0),
        ("a", PieceKind::Normal, -3.0),
        ("▁a", PieceKind::Normal, -1.0),
        ("<|user|>", PieceKind::Control, 0.0),
    ];
    of_model(&Model { pieces: pieces.map(piece).into(), trainer: None, normalizer: None })
}

#[test]
fn a_sentencepiece_vocabulary_follows_the_switches_of_the_file() {
    assert_eq!(ids(&pieces(), "a a"), [1, 5, 5]);
    let mut file = pieces();
    file.set("tokenizer.ggml.add_space_prefix", false);
    file.set("tokenizer.ggml.add_bos_token", false);
    file.set("tokenizer.ggml.add_eos_token", true);
    assert_eq!(ids(&file, "a a"), [4, 5, 2]);
}

#[test]
fn special_tokens_of_phi_3_take_the_space_behind_them() {
    let mut file = pieces();
    file.set("tokenizer.ggml.add_space_prefix", false);
    assert_eq!(ids(&file, "<|user|> a"), [1, 6, 5]);
    file.set("general.architecture", "phi3");
    file.set("general.name", "Phi 3 Mini");
    assert_eq!(ids(&file, "<|user|> a"), [1, 6, 5], "not by this name");
    file.set("general.name", "Phi-3 Mini 4K");
    assert_eq!(ids(&file, "<|user|> a"), [1, 6, 4]);
}

#[test]
fn scores_that_are_not_one_a_token_are_refused() {
    for scores in [Entry::F32s(vec![0.0; 3]), Entry::I32s(vec![0; 7]), Entry::from("none")] {
        let mut file = pieces();
        file.set("tokenizer.ggml.scores", scores);
        assert!(refusal(&file).contains("`tokenizer.ggml.scores`"));
    }
}

#[test]
fn what_stands_beside_a_gguf_file_is_not_read_as_part_of_it() {
    let (folder, path) = written(&bytes("gpt-2"));
    std::fs::write(folder.path().join("tokenizer.json"), "{").unwrap();
    assert!(Tokenizer::open(&path).is_ok());
    assert!(matches!(crate::gguf::inside(&path.join("merges.txt")), Some(Ok(None))));
    assert!(crate::gguf::inside(Path::new("no/such/config.json")).is_none());
}
