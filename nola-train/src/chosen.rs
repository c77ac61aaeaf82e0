//! The model that `--run`, or `--model` and `--adapter`, name.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use nola_core::Adapted;
use nola_models::hub::Wanted;
use nola_models::{FewBits, WeightDtype};

use crate::adapter_data::AdapterData;
use crate::progress::{Downloads, weights_read};
use crate::recipe::{CheckedRecipe, MethodRecipe, Recipe};
use crate::recipe_files::located_model;
use crate::session::{Base, ReadAdapter, modality, model_folder};
use crate::settings::{Modality, ModelSettings, Quantize};
use crate::{Error, notices, run};

/// A base and an adapter, as folders.
#[derive(Debug, Clone)]
pub struct Named {
    /// How the base is opened.
    pub model: ModelSettings,
    /// The adapter on it.
    pub adapter: Option<PathBuf>,
    /// The recipe, if a run was named.
    pub recipe: Option<CheckedRecipe>,
}

impl Named {
    /// What a run folder holds: its base with its best adapter, or the model that was trained in full.
    ///
    /// # Errors
    /// If its recipe cannot be read.
    pub fn of_run(folder: &Path) -> Result<Self, Error> {
        let recipe = folder.join(run::RECIPE);
        if !recipe.exists() && run::is_begun(folder) {
            return Err(Error::NoAdapter { run: folder.to_owned(), last: None });
        }
        let recipe = Recipe::read(&recipe, &[])?;
        let is_full = recipe.method == MethodRecipe::Full;
        let Some(best) = run::whole(folder, if is_full { run::MODEL } else { run::ADAPTER }) else {
            let last = run::whole(folder, run::LAST_ADAPTER);
            return Err(Error::NoAdapter { run: folder.to_owned(), last });
        };
        if is_full {
            let model = ModelSettings { path: best, ..ModelSettings::default() };
            return Ok(Self { model, adapter: None, recipe: Some(recipe) });
        }
        Ok(Self { model: recipe.model.clone(), adapter: Some(best), recipe: Some(recipe) })
    }

    /// A model, by folder or by its name on the hub, with or without an adapter.
    pub fn of_folders(model: &Path, adapter: Option<&Path>) -> Self {
        let model = ModelSettings { path: model.to_owned(), ..ModelSettings::default() };
        Self { model, adapter: adapter.map(Path::to_owned), recipe: None }
    }

    /// The same with its weights stored in `dtype`; absent: as the run had them, else in f32.
    pub fn held_in(mut self, dtype: Option<WeightDtype>) -> Self {
        self.model.dtype = dtype.unwrap_or(self.model.dtype);
        self
    }

    /// The same with its linear layers quantised; absent: as the run had them, else not at all.
    pub fn quantized(mut self, quantize: Option<Quantize>) -> Self {
        self.model.quantize = quantize.unwrap_or(self.model.quantize);
        self
    }

    /// The same with dense weights where a GGUF file stores them in few bits.
    pub fn dense(mut self) -> Self {
        self.model.few_bits = FewBits::Dense;
        self
    }

    /// Whether it answers about images or completes prompts.
    ///
    /// # Errors
    /// If the model's configuration cannot be read.
    pub fn modality(&self) -> Result<Modality, Error> {
        match &self.recipe {
            Some(recipe) => Ok(recipe.data.format.modality()),
            None => {
                let model = located_model(&self.model)?;
                let folder = model_folder(&model.path, Wanted::Model, &Downloads::default())?;
                modality(&folder)
            }
        }
    }

    /// How the text was written that the adapter was trained on: what its folder says, else the recipe of its run; none if
    /// neither is there, or it is about images.
    ///
    /// # Errors
    /// If the adapter's configuration cannot be read.
    pub fn data(&self) -> Result<Option<AdapterData>, Error> {
        let of_folder = self.adapter.as_deref().map(AdapterData::of_folder).transpose()?.flatten();
        let of_text = |recipe: &&CheckedRecipe| recipe.data.format.modality() == Modality::Text;
        let of_recipe = || {
            let data = &self.recipe.as_ref().filter(of_text)?.data;
            Some(AdapterData::new(data.format, &data.text, None))
        };
        Ok(of_folder.or_else(of_recipe))
    }

    /// Loads the base alone.
    ///
    /// # Errors
    /// If it is damaged.
    pub fn base<B: Base>(&self, device: &Device) -> Result<B, Error> {
        let seed = self.recipe.as_ref().map_or(0, |recipe| recipe.train.seed);
        let base = B::open(&located_model(&self.model)?, seed, device, &Downloads::default())?;
        notices::print(&base.notices());
        Ok(base)
    }

    /// Loads both.
    ///
    /// # Errors
    /// If one of them is damaged, or they do not belong together.
    pub fn open<B: Base>(self, device: &Device) -> Result<Opened<B>, Error> {
        let base: B = self.base(device)?;
        let adapted = match &self.adapter {
            Some(adapter) => attached(&base, adapter, device)?,
            None => base.clone().without_adapter(device)?,
        };
        Ok(Opened { adapted, base, recipe: self.recipe })
    }
}

/// The base with an adapter from a folder; says what a user should hear of them.
///
/// # Errors
/// As [`Base::with_adapter`].
pub fn attached<B: Base>(base: &B, adapter: &Path, device: &Device) -> Result<Adapted<B::Model>, Error> {
    let attached = base.clone().with_adapter(ReadAdapter::open(adapter)?, device, &weights_read())?;
    notices::print(&attached.notices);
    Ok(attached.adapted)
}

/// A base with its adapter, ready to compute.
#[derive(Debug, Clone)]
pub struct Opened<B: Base> {
    /// The model.
    pub adapted: Adapted<B::Model>,
    /// The base.
    pub base: B,
    /// The recipe, if a run was named.
    pub recipe: Option<CheckedRecipe>,
}

impl<B: Base> Opened<B> {
    /// The seed of the run, which decides what is held out for validation; 0 if none was named.
    pub fn seed(&self) -> u64 {
        self.recipe.as_ref().map_or(0, |recipe| recipe.train.seed)
    }
}
