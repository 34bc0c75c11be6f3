//! Address pools for people.

use perennial_views::model::address_pool::{AddressPoolLine, AddressPoolView};

use crate::output::{pairs, table};

/// The address pools.
pub(crate) fn list(lines: &[AddressPoolLine]) -> String {
    if lines.is_empty() {
        return "no pools yet: `perennial pool apply -f FILE` declares one".to_owned();
    }
    table(
        &["POOL", "SUBNET", "ADDRESSES", "HELD", "FREE"],
        &[2, 3, 4],
        lines.iter().map(|line| {
            vec![
                line.name.clone(),
                line.subnet.to_string(),
                line.addresses.to_string(),
                line.held.to_string(),
                line.free.to_string(),
            ]
        }),
    )
}

/// One address pool.
pub(crate) fn show(view: &AddressPoolView) -> String {
    let mut rows: Vec<(&str, String)> = vec![
        ("pool", view.name.to_string()),
        ("subnet", view.subnet.clone()),
        ("addresses", view.addresses.join(", ")),
    ];
    rows.extend(view.held.iter().map(|held| ("held", format!("{} by {}", held.address, held.node))));
    let passed = view.passed_over.iter();
    rows.extend(passed.map(|one| ("passed over", format!("{}: {}", one.address, one.because))));
    rows.push(("free", view.free.len().to_string()));
    pairs(rows)
}
