-- The example of a table that belongs to organizations.
CREATE TABLE products (
    org_id     BIGINT NOT NULL REFERENCES organizations ON DELETE CASCADE,
    id         BIGINT GENERATED ALWAYS AS IDENTITY,
    sku        TEXT NOT NULL CHECK (char_length(sku) BETWEEN 1 AND 64),
    name       TEXT NOT NULL CHECK (char_length(name) BETWEEN 1 AND 200),
    -- The folded name, for search and sort. It is cut, because folding can make a name too long for the index. A search reads
    -- each row of the organization: PostgreSQL does not use an index for parts of a text under row-level security.
    name_key   TEXT NOT NULL GENERATED ALWAYS AS (left(search_fold(name), 250)) STORED,
    -- In the minor unit of the currency, such as cents.
    price      BIGINT NOT NULL CHECK (price >= 0),
    -- The code of ISO 4217, such as EUR.
    currency   TEXT NOT NULL CHECK (currency ~ '^[A-Z]{3}$'),
    created_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    updated_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    -- Every key and index begins with `org_id`, because each query is about one organization. So the conflict of a key does not
    -- reveal rows of other organizations.
    PRIMARY KEY (org_id, id),
    CONSTRAINT products_sku_key UNIQUE (org_id, sku)
);

CREATE INDEX products_name_key_idx ON products (org_id, name_key, id);
CREATE INDEX products_created_at_idx ON products (org_id, created_at, id);

CREATE TRIGGER products_set_updated_at
    -- Without `WHEN (OLD.* IS DISTINCT FROM NEW.*)`: PostgreSQL refuses it in a table with a generated column.
    BEFORE UPDATE ON products
    FOR EACH ROW EXECUTE FUNCTION set_updated_at();

SELECT tenant_table('products');
