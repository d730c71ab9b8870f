//! Roles that must have signed before a release counts: in, what the policy says; out, the roles for one product.

use crate::{role::Role, trust::covers};

/// Roles that a product's releases must be signed in, each by one trusted signer at least. Without any, one signature of
/// any trusted signer is enough.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Required {
    everywhere: Vec<Role>,
    /// Pattern and roles, the closest pattern first.
    products: Vec<(String, Vec<Role>)>,
}

impl Required {
    /// Roles for every product that [`Self::for_products`] says nothing of.
    #[must_use]
    pub fn everywhere(roles: impl IntoIterator<Item = Role>) -> Self {
        Self { everywhere: ordered(roles), products: Vec::new() }
    }

    /// Roles for the products of one pattern: a name, or the beginning of names with `*` at its end. A name goes before a
    /// beginning, a longer beginning before a shorter one. Said twice of one pattern, both hold.
    #[must_use]
    pub fn for_products(mut self, pattern: &str, roles: impl IntoIterator<Item = Role>) -> Self {
        match self.products.iter_mut().find(|(known, _)| known == pattern) {
            Some((_, known)) => *known = ordered(known.iter().copied().chain(roles)),
            None => self.products.push((pattern.to_owned(), ordered(roles))),
        }
        self.products.sort_by(|(a, _), (b, _)| closeness(b).cmp(&closeness(a)).then_with(|| a.cmp(b)));
        self
    }

    /// Roles that must have signed a release of `product`, in order and each once.
    #[must_use]
    pub fn roles_for(&self, product: &str) -> &[Role] {
        let closest = self.products.iter().find(|(pattern, _)| covers(pattern, product));
        closest.map_or(self.everywhere.as_slice(), |(_, roles)| roles.as_slice())
    }
}

fn closeness(pattern: &str) -> (bool, usize) {
    (!pattern.ends_with('*'), pattern.len())
}

fn ordered(roles: impl IntoIterator<Item = Role>) -> Vec<Role> {
    let mut roles = roles.into_iter().collect::<Vec<_>>();
    roles.sort_unstable();
    roles.dedup();
    roles
}

#[cfg(test)]
mod tests {
    use super::Required;
    use crate::role::Role::{Distributor, Importer, Manufacturer, Operator};

    #[test]
    fn the_closest_pattern_decides() {
        let required = Required::everywhere([Manufacturer])
            .for_products("*", [Distributor])
            .for_products("acme/*", [Importer, Manufacturer, Importer])
            .for_products("acme/gw", [])
            .for_products("acme/g*", [Operator]);
        assert_eq!(required.roles_for("acme/gw"), []);
        assert_eq!(required.roles_for("acme/gw2"), [Operator]);
        assert_eq!(required.roles_for("acme/x"), [Manufacturer, Importer]);
        assert_eq!(required.roles_for("other"), [Distributor]);
        assert_eq!(Required::everywhere([Manufacturer]).roles_for("other"), [Manufacturer]);
        assert_eq!(Required::default().roles_for("other"), []);
    }

    #[test]
    fn what_is_said_twice_of_one_pattern_holds_twice() {
        let required = Required::default().for_products("a", [Importer]).for_products("a", [Manufacturer]);
        assert_eq!(required.roles_for("a"), [Manufacturer, Importer]);
    }
}
