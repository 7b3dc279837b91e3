CREATE TABLE stock (
    sku TEXT PRIMARY KEY,
    quantity INTEGER NOT NULL CHECK (quantity >= 0)
);

CREATE TABLE orders (
    id INTEGER PRIMARY KEY,
    sku TEXT NOT NULL REFERENCES stock (sku),
    quantity INTEGER NOT NULL CHECK (quantity > 0)
);

INSERT INTO stock (sku, quantity) VALUES ('T-SHIRT-M', 10), ('T-SHIRT-L', 0);
