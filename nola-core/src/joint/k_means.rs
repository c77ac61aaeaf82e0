//! Lloyd's algorithm.

use super::smallest;

/// Rounds of it.
const MOST_MEANS: usize = 100;

/// The cluster of each row: Lloyd's algorithm from rows that lie far from each other.
pub(super) fn k_means(rows: &[Vec<f64>], clusters: usize) -> Vec<usize> {
    let mut centres = vec![rows[0].clone()];
    while centres.len() < clusters {
        let nearest =
            |row: &Vec<f64>| centres.iter().map(|centre| distance(row, centre)).fold(f64::MAX, f64::min);
        let distances: Vec<f64> = rows.iter().map(|row| -nearest(row)).collect();
        centres.push(rows[smallest(&distances)].clone());
    }
    k_means_from(rows, centres).0
}

/// The cluster of each row from these centres on, and the sum of the squared distances to the last ones.
pub(super) fn k_means_from(rows: &[Vec<f64>], mut centres: Vec<Vec<f64>>) -> (Vec<usize>, f64) {
    let nearest = |row: &Vec<f64>, centres: &[Vec<f64>]| {
        smallest(&centres.iter().map(|centre| distance(row, centre)).collect::<Vec<_>>())
    };
    let mut labels: Vec<usize> = rows.iter().map(|row| nearest(row, &centres)).collect();
    for _ in 0..MOST_MEANS {
        for (cluster, centre) in centres.iter_mut().enumerate() {
            let members: Vec<&Vec<f64>> = rows
                .iter()
                .zip(&labels)
                .filter(|(_, label)| **label == cluster)
                .map(|(row, _)| row)
                .collect();
            if !members.is_empty() {
                let mean =
                    |place: usize| members.iter().map(|row| row[place]).sum::<f64>() / members.len() as f64;
                *centre = (0..centre.len()).map(mean).collect();
            }
        }
        let next: Vec<usize> = rows.iter().map(|row| nearest(row, &centres)).collect();
        if next == labels {
            break;
        }
        labels = next;
    }
    let inertia = rows.iter().zip(&labels).map(|(row, &label)| distance(row, &centres[label])).sum();
    (labels, inertia)
}

fn distance(one: &[f64], other: &[f64]) -> f64 {
    one.iter().zip(other).map(|(one, other)| (one - other).powi(2)).sum()
}
