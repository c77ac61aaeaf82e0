//! The values that training changed, taken out of a model and put into one.

use std::collections::BTreeMap;

use burn::module::{Module, ParamId};
use burn::tensor::TensorData;

use super::{Adapted, BASE_GAIN, TrainedState, floats, host_values};
use crate::adapter::{BaseGain, Factor};
use crate::params::{FoundParam, float_params, read_params, write_params};

impl<M: Module> Adapted<M> {
    /// The values that training changed, on the host.
    pub fn state(&self) -> TrainedState {
        let params = self.trained_params();
        let ids: Vec<ParamId> = params.iter().map(|param| param.id).collect();
        let mut values = read_params(&self.model, &ids);
        let mut state: TrainedState =
            (params.into_iter()).filter_map(|param| Some((param.path, values.remove(&param.id)?))).collect();
        for (coefficients, combined) in self.combined() {
            let shape = coefficients.val().dims();
            let values = TensorData::new(host_values(coefficients.val()), shape);
            state.insert(combined.name.to_owned(), values);
        }
        if let Some(gain) = self.base_gain() {
            let values = vec![gain.weight as f32, gain.bias as f32];
            state.insert(BASE_GAIN.to_owned(), TensorData::new(values, [2]));
        }
        state
    }

    /// The model with the trained values of `state`; every name and shape must fit. Only pairs of factors that were added
    /// since may be absent, and are zero then.
    ///
    /// # Errors
    /// One text per missing, surplus, misshapen or non-finite tensor, all at once.
    pub fn with_state(mut self, mut state: TrainedState) -> Result<Self, Vec<String>> {
        let expected: Vec<(String, Vec<usize>)> =
            self.state().into_iter().map(|(name, data)| (name, data.shape().to_vec())).collect();
        self.add_absent_pairs(&mut state);
        let problems = state_problems(&expected, &state);
        if !problems.is_empty() {
            return Err(problems);
        }
        for (coefficients, combined) in self.coefficients.iter_mut().zip(&self.attached.combined) {
            let data = state.remove(combined.name).expect("every name was checked");
            *coefficients = write_params(coefficients.clone(), BTreeMap::from([(coefficients.id, data)]));
        }
        if let Some(gain) = state.remove(BASE_GAIN).map(floats) {
            self.set_base_gain(BaseGain { weight: f64::from(gain[0]), bias: f64::from(gain[1]) });
        }
        let params = self.trained_params();
        let values =
            (params.into_iter()).filter_map(|param| Some((param.id, state.remove(&param.path)?))).collect();
        self.model = write_params(self.model, values);
        Ok(self.with_gates_of_values().expand())
    }

    /// What the optimizer changes in the model itself: not the factors that are regenerated from coefficients.
    fn trained_params(&self) -> Vec<FoundParam> {
        let derived: Vec<ParamId> = (self.attached.plans.iter().zip(&self.attached.ids))
            .flat_map(|(plan, ids)| [(&plan.a, ids.a), (&plan.b, Some(ids.b))])
            .filter(|(factor, _)| matches!(factor, Factor::Combined(_)))
            .filter_map(|(_, id)| id)
            .collect();
        let mut params = float_params(&self.model);
        let further = self.ranks.further();
        let is_trained = |id: &ParamId| self.attached.trained.contains(id) || further.contains(id);
        params.retain(|param| is_trained(&param.id) && !derived.contains(&param.id));
        params
    }
}

fn state_problems(expected: &[(String, Vec<usize>)], state: &TrainedState) -> Vec<String> {
    let mut problems = Vec::new();
    for (name, shape) in expected {
        match state.get(name) {
            None => problems.push(format!("`{name}` is missing")),
            Some(data) if data.shape().to_vec() != *shape => {
                problems.push(format!("`{name}` has shape {:?}, expected {shape:?}", data.shape().to_vec()))
            }
            Some(data) => {
                let count = floats(data.clone()).iter().filter(|v| !v.is_finite()).count();
                if count > 0 {
                    problems.push(format!("`{name}` holds {count} numbers that are not finite"));
                } else if name == BASE_GAIN
                    && !floats(data.clone()).iter().all(|gain| (0.0..=1.0).contains(gain))
                {
                    let found = floats(data.clone());
                    problems.push(format!("`{name}` is {found:?}, expected shares between 0 and 1"));
                }
            }
        }
    }
    let surplus = state.keys().filter(|name| !expected.iter().any(|(known, _)| known == *name));
    problems.extend(surplus.map(|name| format!("`{name}` belongs to nothing in this model")));
    problems
}
