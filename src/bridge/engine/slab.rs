//! A thread's connections by number, and the numbers that epoll gives back.
//!
//! A place is used again, so an event in the same batch as the close of its connection could be taken for one of the next. Each
//! place therefore counts its tenants, and the count is part of the number.

use super::connection::{Connection, Side};

/// What an event is about: place, tenant, side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Token {
    place: u32,
    tenant: u32,
}

/// Tenants are counted to here and then from 0 again; bit 31 of the upper half tells connections from all else.
const TENANTS: u32 = (1 << 31) - 1;

impl Token {
    /// For epoll. Bit 63 is never set, bit 0 is the side.
    pub(super) fn data(self, side: Side) -> u64 {
        u64::from(self.tenant) << 32 | u64::from(self.place) << 1 | u64::from(side == Side::Service)
    }

    /// From epoll.
    pub(super) fn from_data(data: u64) -> (Self, Side) {
        let side = if data & 1 == 1 { Side::Service } else { Side::Client };
        (Self { place: (data as u32) >> 1, tenant: (data >> 32) as u32 }, side)
    }
}

#[derive(Debug, Default)]
struct Place {
    tenant: u32,
    connection: Option<Connection>,
}

/// Connections, in places that are used again.
#[derive(Debug, Default)]
pub(super) struct Slab {
    places: Vec<Place>,
    free: Vec<u32>,
}

impl Slab {
    pub(super) fn insert(&mut self, connection: Connection) -> Token {
        let place = self.free.pop().unwrap_or_else(|| {
            self.places.push(Place::default());
            (self.places.len() - 1) as u32
        });
        let entry = &mut self.places[place as usize];
        entry.connection = Some(connection);
        Token { place, tenant: entry.tenant }
    }

    pub(super) fn get(&mut self, token: Token) -> Option<&mut Connection> {
        let place = self.places.get_mut(token.place as usize).filter(|place| place.tenant == token.tenant)?;
        place.connection.as_mut()
    }

    pub(super) fn remove(&mut self, token: Token) -> Option<Connection> {
        let place = self.places.get_mut(token.place as usize).filter(|place| place.tenant == token.tenant)?;
        let connection = place.connection.take()?;
        place.tenant = (place.tenant + 1) & TENANTS;
        self.free.push(token.place);
        Some(connection)
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Connection> {
        self.places.iter().filter_map(|place| place.connection.as_ref())
    }

    /// Those that are so.
    pub(super) fn those(&self, so: impl Fn(&Connection) -> bool) -> Vec<Token> {
        let tokens = self.places.iter().enumerate().filter_map(|(place, entry)| {
            let connection = entry.connection.as_ref()?;
            so(connection).then_some(Token { place: place as u32, tenant: entry.tenant })
        });
        tokens.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn token_survives_epoll_and_is_told_from_other_events(place in 0..=u32::MAX >> 1, tenant in 0..=TENANTS) {
            for side in [Side::Client, Side::Service] {
                let token = Token { place, tenant };
                assert_eq!(token.data(side) >> 63, 0);
                assert_eq!(Token::from_data(token.data(side)), (token, side));
            }
        }
    }
}
