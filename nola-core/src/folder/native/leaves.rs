//! Which trained tensors are those of adapters.

use burn::module::Module;

use crate::adapted::{Adapted, BASE_GAIN};
use crate::adapter_params::is_adapter;
use crate::update::LEAVES;

/// Name under which a parameter of an adapter stands in the file: one tensor for all sites, one site after the other in the
/// order of their paths.
pub(super) fn leaf_of(name: &str) -> Option<&'static str> {
    let leaf = name.rsplit_once('.').filter(|_| is_adapter(name))?.1;
    LEAVES.into_iter().find(|known| *known == leaf)
}

/// Whether a trained tensor is that of a module beside the adapters.
pub(super) fn is_beside<M: Module>(adapted: &Adapted<M>, name: &str) -> bool {
    !adapted.has_coefficients(name) && leaf_of(name).is_none() && name != BASE_GAIN
}
