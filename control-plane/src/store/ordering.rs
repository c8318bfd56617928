//! In which order a list is read and where its next page begins: pieces of SQL from closed tables, values bound. What is
//! ordered by is followed by a second expression that tells equal ones apart, so a page begins right after the last row of
//! the one before it, whatever was added or removed meanwhile.

/// What a list can be ordered by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key {
    /// Its word in the API.
    pub word: &'static str,
    /// The expression.
    sql: &'static str,
    /// The column that tells rows of equal value apart.
    tie: &'static str,
    /// Whether it is a number.
    is_number: bool,
}

impl Key {
    /// An order by a text.
    pub(super) const fn text(word: &'static str, sql: &'static str, tie: &'static str) -> Self {
        Self {
            word,
            sql,
            tie,
            is_number: false,
        }
    }

    /// An order by a number.
    pub(super) const fn number(word: &'static str, sql: &'static str, tie: &'static str) -> Self {
        Self {
            word,
            sql,
            tie,
            is_number: true,
        }
    }

    /// Whether `value` can be one of its values.
    #[must_use]
    pub fn takes(&self, value: &str) -> bool {
        !self.is_number || value.parse::<i64>().is_ok()
    }
}

/// The last row of the page before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// What it was ordered by.
    pub value: String,
    /// What tells it from rows of equal value.
    pub tie: String,
}

/// An order, and where the page begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// By what.
    pub key: &'static Key,
    /// Whether the greatest comes first.
    pub descending: bool,
    /// After which row; from the start otherwise.
    pub after: Option<Place>,
}

impl Order {
    /// What stands after ORDER BY.
    pub(super) fn by(&self) -> String {
        let (sql, tie) = (self.key.sql, self.key.tie);
        let way = if self.descending { "DESC" } else { "ASC" };
        format!("{sql} {way}, {tie} {way}")
    }

    /// The condition of rows after a place, around the value and the tie that are bound.
    pub(super) fn beyond(&self) -> (String, &'static str) {
        let (sql, tie) = (self.key.sql, self.key.tie);
        let sign = if self.descending { '<' } else { '>' };
        let (open, close) = if self.key.is_number {
            ("CAST(", " AS BIGINT), ")
        } else {
            ("", ", ")
        };
        (format!("({sql}, {tie}) {sign} ({open}"), close)
    }
}

/// Puts an order, and where the page begins, on a boxed query.
macro_rules! ordered {
    ($query:expr, $order:expr) => {{
        let order: &$crate::store::ordering::Order = $order;
        let query = $query.order(diesel::dsl::sql::<diesel::sql_types::Untyped>(&order.by()));
        match &order.after {
            None => query,
            Some(place) => {
                let (head, middle) = order.beyond();
                query.filter(
                    diesel::dsl::sql::<diesel::sql_types::Bool>(&head)
                        .bind::<diesel::sql_types::Text, _>(place.value.clone())
                        .sql(middle)
                        .bind::<diesel::sql_types::Text, _>(place.tie.clone())
                        .sql(")"),
                )
            }
        }
    }};
}
pub(super) use ordered;

diesel::define_sql_function! {
    /// Small letters, of ASCII at least.
    fn lower(text: diesel::sql_types::Text) -> diesel::sql_types::Text;
}

/// The pattern of texts that hold `text`, in small letters; `\` escapes.
pub(super) fn containing(text: &str) -> String {
    format!("%{}", beginning(text))
}

/// The pattern of texts that begin with `text`, in small letters; `\` escapes.
pub(super) fn beginning(text: &str) -> String {
    let mut pattern = String::new();
    for letter in text.to_lowercase().chars() {
        if matches!(letter, '%' | '_' | '\\') {
            pattern.push('\\');
        }
        pattern.push(letter);
    }
    pattern.push('%');
    pattern
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_reads_as_sql() {
        const STATE: Key = Key::text("state", "state", "name");
        const MADE: Key = Key::number("created_at", "created_at", "id");
        let order = |key, descending| Order {
            key,
            descending,
            after: None,
        };
        assert_eq!(order(&STATE, false).by(), "state ASC, name ASC");
        assert_eq!(
            order(&STATE, false).beyond(),
            ("(state, name) > (".to_owned(), ", ")
        );
        let newest = order(&MADE, true);
        assert_eq!(newest.by(), "created_at DESC, id DESC");
        assert_eq!(
            newest.beyond(),
            ("(created_at, id) < (CAST(".to_owned(), " AS BIGINT), ")
        );
        assert!(STATE.takes("x") && MADE.takes("-7") && !MADE.takes("x"));
    }

    #[test]
    fn what_is_looked_for_is_no_pattern() {
        assert_eq!(containing("A_1%\\"), "%a\\_1\\%\\\\%");
        assert_eq!(beginning("DE:ad"), "de:ad%");
    }
}
