//! The image processors of transformers that go before a ViT, by the name in `image_processor_type`.

use super::{Centre, Filter, Resize};
use crate::Error;
use crate::fields::Fields;

const STANDARD: [[f32; 3]; 2] = [[0.5; 3], [0.5; 3]];
const OPENAI: [[f32; 3]; 2] =
    [[0.481_454_66, 0.457_827_5, 0.408_210_73], [0.268_629_54, 0.261_302_6, 0.275_777_1]];

/// What a processor does where its file says nothing.
#[derive(Debug, Clone, Copy)]
pub(super) struct Defaults {
    pub(super) size: Resize,
    /// What a `size` that is one number means.
    pub(super) of_number: fn(usize) -> Resize,
    pub(super) filter: Filter,
    /// Whether the middle is cropped out, of 224 pixels a side.
    pub(super) crops: bool,
    /// Mean and deviation.
    pub(super) normalise: [[f32; 3]; 2],
    pub(super) centre: Centre,
}

const VIT: Defaults = Defaults {
    size: Resize::Exact([224; 2]),
    of_number: |side| Resize::Exact([side; 2]),
    filter: Filter::Bilinear,
    crops: false,
    normalise: STANDARD,
    centre: Centre::Numpy,
};
const DEIT: Defaults =
    Defaults { size: Resize::Exact([256; 2]), filter: Filter::Bicubic, crops: true, ..VIT };
const CLIP: Defaults =
    Defaults { size: Resize::ShortestEdge(224), of_number: Resize::ShortestEdge, normalise: OPENAI, ..DEIT };
const SIGLIP: Defaults = Defaults { filter: Filter::Bicubic, ..VIT };

/// Names without `ImageProcessor`.
const PROCESSORS: [(&str, Defaults); 5] =
    [("ViT", VIT), ("DeiT", DEIT), ("CLIP", CLIP), ("Bit", CLIP), ("Siglip", SIGLIP)];

impl Defaults {
    /// Those of the processor that a file names; of a ViT's if it names none.
    pub(super) fn of(fields: &Fields) -> Result<Self, Error> {
        let named = ["image_processor_type", "feature_extractor_type"]
            .into_iter()
            .find(|&key| fields.json.get(key).is_some_and(|name| !name.is_null()));
        let Some(key) = named else { return Ok(VIT) };
        let found = fields.json[key].as_str().and_then(|name| {
            let family = name.strip_suffix("Fast").or_else(|| name.strip_suffix("Pil")).unwrap_or(name);
            let family =
                family.strip_suffix("ImageProcessor").or_else(|| family.strip_suffix("FeatureExtractor"))?;
            let (_, defaults) = PROCESSORS.iter().find(|(known, _)| *known == family)?;
            let centre = if name.ends_with("Fast") { Centre::Fast } else { Centre::Numpy };
            Some(Self { centre, ..*defaults })
        });
        found.ok_or_else(|| {
            let known = PROCESSORS.map(|(family, _)| format!("`{family}ImageProcessor`")).join(", ");
            fields.wrong(key, &format!("one of {known}"))
        })
    }
}
