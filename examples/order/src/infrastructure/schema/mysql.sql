-- The tables of the order service, as the Go order service has them: whoever has those keeps them.
-- The audit projection is ours.
CREATE TABLE IF NOT EXISTS orders (
  id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
  user_id BIGINT NOT NULL DEFAULT 0,
  order_code VARCHAR(100) NOT NULL DEFAULT '',
  trade_time DATETIME NULL,
  pay_status TINYINT NOT NULL DEFAULT 0,
  ship_status TINYINT NOT NULL DEFAULT 0,
  pay_error VARCHAR(500) NOT NULL DEFAULT '',
  pay_time DATETIME NULL,
  price DECIMAL(18,2) NOT NULL DEFAULT 0,
  created_at DATETIME NULL,
  updated_at DATETIME NULL,
  deleted_at DATETIME NULL DEFAULT NULL,
  UNIQUE KEY uk_order_code (order_code)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
CREATE TABLE IF NOT EXISTS order_details (
  id BIGINT NOT NULL AUTO_INCREMENT PRIMARY KEY,
  order_id BIGINT NOT NULL DEFAULT 0,
  user_id BIGINT NOT NULL DEFAULT 0,
  sku_id BIGINT NOT NULL DEFAULT 0,
  product_id BIGINT NOT NULL DEFAULT 0,
  product_no VARCHAR(64) NOT NULL DEFAULT '',
  sku_no VARCHAR(64) NOT NULL DEFAULT '',
  product_name VARCHAR(255) NOT NULL DEFAULT '',
  sku_spec VARCHAR(500) NOT NULL DEFAULT '',
  quantity INT NOT NULL DEFAULT 1,
  unit_price DECIMAL(18,2) NOT NULL DEFAULT 0.00,
  total_price DECIMAL(18,2) NOT NULL DEFAULT 0.00,
  discount_amount DECIMAL(18,2) NOT NULL DEFAULT 0.00,
  actual_payment DECIMAL(18,2) NOT NULL DEFAULT 0.00,
  product_image VARCHAR(500) NULL,
  refund_status TINYINT NOT NULL DEFAULT 0,
  refund_amount DECIMAL(18,2) NOT NULL DEFAULT 0.00,
  refund_reason VARCHAR(500) NULL,
  comment_status TINYINT NOT NULL DEFAULT 0,
  created_at DATETIME NOT NULL DEFAULT CURRENT_TIMESTAMP,
  updated_at DATETIME NOT NULL DEFAULT CURRENT_TIMESTAMP ON UPDATE CURRENT_TIMESTAMP,
  deleted_at DATETIME NULL DEFAULT NULL,
  KEY idx_order_id (order_id),
  KEY idx_sku_id (sku_id)
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
CREATE TABLE IF NOT EXISTS order_audit (
  order_id BIGINT NOT NULL PRIMARY KEY,
  applied_seq BIGINT NOT NULL,
  out_of_order BIGINT NOT NULL
) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4;
