//! What can go wrong with an adapter.

use std::path::PathBuf;

use crate::hollow::Hollow;
use crate::pattern::PatternError;

/// Why an adapter could not be attached, read or written.
///
/// A message names the file, the site or the field, and says what to change. A wrong shape inside a forward
/// pass is a bug, not an `Error`: it panics.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nothing would be adapted.
    #[error("{targets} match no linear weight; {}the model has {available}", same_names(.names))]
    NoTarget {
        /// The patterns as the user wrote them.
        targets: String,
        /// What the model calls those that are known by other names.
        names: Vec<&'static str>,
        /// The linear weights that exist, the same ones of all blocks together.
        available: String,
    },

    /// A pattern is no regular expression, or matches without end.
    #[error("target pattern {0}")]
    BadPattern(#[from] PatternError),

    /// Parameters to train beside the adapters do not exist.
    #[error("`{pattern}` is to be trained, but no parameter of the model is called so")]
    NoParameter {
        /// The name asked for.
        pattern: String,
    },

    /// A number in the adapter's settings cannot be used.
    #[error("adapter setting `{field}` is {value}: {cure}")]
    BadSetting {
        /// Key of the setting.
        field: &'static str,
        /// Its value.
        value: String,
        /// What to write instead.
        cure: &'static str,
    },

    /// Two sites would share their random numbers.
    #[error("`{first}` and `{second}` have the same 32-bit hash; rename one of the modules or leave one out")]
    HashCollision {
        /// One path or shape.
        first: String,
        /// The other one.
        second: String,
    },

    /// Neither factor can ever get a gradient.
    #[error(
        "site `{site}`: alpha and beta are all zero and there is no offset, so no coefficient would ever get a \
         gradient; use the preset `default` or `code-2024`, or non-zero coefficients"
    )]
    DeadSaddle {
        /// Path of the site.
        site: String,
    },

    /// A weight has fewer singular vectors than the adapter wants.
    #[error(
        "site `{site}`: rank {rank} is too large for its weight of {d_in} x {d_out}, which has at most {} singular vectors; use \
         a rank of at most {}, or leave the site out",
        d_in.min(d_out), d_in.min(d_out)
    )]
    RankAboveWeight {
        /// Path of the site.
        site: String,
        /// Rank of the adapter.
        rank: usize,
        /// Inputs of the weight.
        d_in: usize,
        /// Outputs of the weight.
        d_out: usize,
    },

    /// A weight that an adapter starts from is no use.
    #[error(
        "site `{site}`: its weight holds {count} numbers that are not finite, so nothing can be computed from it; load a base \
         without them, or leave the site out"
    )]
    WeightNotFinite {
        /// Path of the site.
        site: String,
        /// How many numbers.
        count: usize,
    },

    /// The adapter was trained on other weights.
    #[error("{}: made for the base `{expected}`, but `{found}` is loaded ({difference} differs)", file.display())]
    WrongBase {
        /// The adapter's configuration.
        file: PathBuf,
        /// Base named by the adapter.
        expected: String,
        /// Base that is loaded.
        found: String,
        /// Which hash differs.
        difference: &'static str,
    },

    /// A file that is not what it should be, with everything that is wrong with it.
    #[error("{}: {}", file.display(), problems.join("; "))]
    Invalid {
        /// The file.
        file: PathBuf,
        /// Each names a field or a tensor, what was found and what was expected.
        problems: Vec<String>,
    },

    /// The file is made by another method or version than this program knows.
    #[error("{}: `{field}` is `{found}`; this program reads {supported}", file.display())]
    Unsupported {
        /// The adapter's configuration.
        file: PathBuf,
        /// Key in the configuration.
        field: &'static str,
        /// Its value.
        found: String,
        /// What can be read.
        supported: &'static str,
    },

    /// A file of an adapter that holds nothing of what its name promises.
    #[error("{}: {what}", file.display())]
    Hollow {
        /// The file.
        file: PathBuf,
        /// What it is instead.
        what: Hollow,
    },

    /// The folder has no settings, without which nobody knows what its tensors mean.
    #[error(
        "{}: no such file; an adapter folder holds it beside adapter_model.safetensors{}",
        file.display(),
        beside(pickle)
    )]
    NoSettings {
        /// The absent file.
        file: PathBuf,
        /// A pickle with the weights, if one is there.
        pickle: Option<PathBuf>,
    },

    /// The folder has weights only as a Python pickle.
    #[error(
        "{}: a pickle can run code when it is opened, so it is not read; convert it in Python: \
         `import torch, safetensors.torch as st; st.save_file({{k: v.contiguous() for k, v in torch.load(\"{}\", \
         weights_only=True).items()}}, \"adapter_model.safetensors\")`, or load it with PEFT and save it again \
         (`model.save_pretrained(folder)`)",
        file.display(), file.file_name().unwrap_or_default().display()
    )]
    PickleOnly {
        /// The pickle.
        file: PathBuf,
    },

    /// A coefficient or a weight is NaN or infinite.
    #[error("`{name}` holds {count} numbers that are not finite; the adapter is not usable")]
    NotFinite {
        /// Tensor or site.
        name: String,
        /// How many numbers.
        count: usize,
    },

    /// Coefficients and factors of a mixture do not belong together.
    #[error(
        "`{site}`: the factors are not what the coefficients give, so what was learned would be lost; make every optimizer \
         step through `Adapted::step`"
    )]
    StaleFactors {
        /// Path of the first such site.
        site: String,
    },

    /// PEFT stores what belongs to a module, and this does not.
    #[error(
        "`{name}` is trained, but is no module's, so no PEFT folder can hold it; train without it, or merge"
    )]
    NoPeftModule {
        /// Path of the parameter.
        name: String,
    },

    /// The adapter adds a bias where the base has none.
    #[error(
        "`{site}` has no bias, but its adapter learned one, so no weights of the base's form can hold it; keep the adapter"
    )]
    NoBias {
        /// Path of the layer.
        site: String,
    },

    /// A weight is to be trained itself and by an adapter.
    #[error(
        "`{site}` has an adapter and lies in `{module}`, which is trained as a whole; leave it out of the targets (`exclude`), or the module out of `modules_to_save`"
    )]
    TrainedTwice {
        /// Path of the layer.
        site: String,
        /// The module that is trained as a whole.
        module: String,
    },

    /// Of the adapters, one alone is attached to embeddings.
    #[error(
        "`{site}` is an embedding, and only `lora` adapts embeddings, with its two factors alone; take it out of `targets`, or train \
         `lora`"
    )]
    EmbeddingSite {
        /// Path of the embedding.
        site: String,
    },

    /// The layers of a small model cannot be adapted.
    #[error(
        "`{site}` is a low-rank layer without a base weight, which no adapter can be added to; adapt the model that it was made of"
    )]
    LowRankSite {
        /// Path of the layer.
        site: String,
    },

    /// A weight with an adapter is not quantised.
    #[error("`{site}` has an adapter, which would be lost; quantise the base before adapters are attached")]
    Adapted {
        /// Path of the layer.
        site: String,
    },

    /// An adapter changes a weight that rows of one batch cannot have of their own.
    #[error(
        "`{path}` has no place for the adapters of single rows, as a head has none that is the embedding; merge the adapter and use the merged model"
    )]
    NoRoomForRows {
        /// Path of the weight.
        path: String,
    },

    /// Rows of one batch share the base, so none of them may have another.
    #[error(
        "`{path}` was trained in the base itself, beside the adapters, so rows with other adapters cannot share it; merge the adapter and use the merged model"
    )]
    TrainedInBase {
        /// Path of the parameter.
        path: String,
    },

    /// A weight in few bits cannot be trained.
    #[error(
        "`{weight}` is stored in few bits and cannot be trained itself; leave its module out of what is trained, or load the base in f32, bf16 or f16 (a GGUF file: with quantize = \"dense\")"
    )]
    PackedTrained {
        /// Path of the weight.
        weight: String,
    },

    /// The base has not faded to its end.
    #[error(
        "{percent:.0} % of the base is left in this adapter, so it is no model of its own yet; train it to the end of its run"
    )]
    BaseIsLeft {
        /// What is left.
        percent: f64,
    },

    /// The adapter is of a kind that no plain LoRA equals.
    #[error(
        "an adapter of the kind `{kind}` cannot be written as PEFT's LoRA: {reason}; keep its own folder, or merge it"
    )]
    UnlikeLora {
        /// Kind of the adapter.
        kind: &'static str,
        /// What it does that a LoRA does not.
        reason: &'static str,
    },

    /// The name cannot be an adapter's among others.
    #[error("`{}` is no name for an adapter: {problem}", name.escape_debug())]
    BadName {
        /// The name.
        name: String,
        /// What is wrong with it.
        problem: String,
    },

    /// Two adapters of one bundle would have one name.
    #[error("two adapters are called `{name}`; give one of them another name (`NAME=FOLDER`)")]
    NameTaken {
        /// The name.
        name: String,
    },

    /// An update that is more than two factors cannot be compressed.
    #[error(
        "`{name}`: at `{site}` {reason}, and a bundle holds low-rank updates alone; leave this adapter out of it, or merge it"
    )]
    NotLowRank {
        /// The adapter.
        name: String,
        /// Path of the layer.
        site: String,
        /// What it is, or does.
        reason: &'static str,
    },

    /// No adapter of a bundle changes what a later one does.
    #[error(
        "`{name}` changes `{site}`, which no adapter of the bundle does, so there is no basis for it; make the bundle again with \
         all adapters"
    )]
    NotInBundle {
        /// The adapter.
        name: String,
        /// Path of the layer.
        site: String,
    },

    /// Two adapters know other sizes of one weight.
    #[error(
        "`{name}` has `{path}` with {other} numbers, and others have it with {one}: they are not of one base"
    )]
    OtherSizes {
        /// The adapter.
        name: String,
        /// Path of the weight.
        path: String,
        /// Sizes that others have.
        one: String,
        /// Its own.
        other: String,
    },

    /// Nothing changes a weight.
    #[error("there is nothing to compress: no adapter changes a weight")]
    NothingToCompress,

    /// A path that means a bundle where one adapter is needed, or nothing in it.
    #[error("{}: {problem}; its members are {}", folder.display(), members.join(", "))]
    NoMember {
        /// The bundle.
        folder: PathBuf,
        /// What is wrong.
        problem: String,
        /// Names of some members, and how many more there are.
        members: Vec<String>,
    },

    /// The folder holds something already.
    #[error("{} exists and is not empty; choose another folder or remove it", folder.display())]
    Exists {
        /// The folder.
        folder: PathBuf,
    },

    /// The file cannot be read or written.
    #[error("{}: cannot {action}{}", file.display(), cure(action))]
    Io {
        /// The file or folder.
        file: PathBuf,
        /// What was tried: read, write, create.
        action: &'static str,
        /// What the system says.
        source: std::io::Error,
    },
}

/// What to know of the weights that stand without their settings.
fn beside(pickle: &Option<PathBuf>) -> String {
    match pickle {
        Some(pickle) => format!(
            "; copy it from where the adapter came from, with the weights as adapter_model.safetensors: a pickle such as {} \
             is not read",
            pickle.file_name().unwrap_or_default().display()
        ),
        None => "; copy it from where the adapter came from, or name the folder that has it".to_owned(),
    }
}

/// What helps where `action` failed.
fn cure(action: &str) -> &'static str {
    match action {
        "write" | "create" => "; make room there, or choose another folder",
        _ => "",
    }
}

fn same_names(names: &[&str]) -> String {
    if names.is_empty() { String::new() } else { format!("here they are called `{}`; ", names.join("`, `")) }
}
