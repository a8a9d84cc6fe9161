// A session with the JDBC driver: typed and prepared statements, batches, cursors, savepoints, COPY, timeouts,
// and what DatabaseMetaData asks of the catalog.
//
// java -cp postgresql.jar Session.java PORT; prints `ok` at the end. Run by tests/tests/drivers.rs.

import java.io.StringReader;
import java.io.StringWriter;
import java.math.BigDecimal;
import java.sql.*;
import java.util.*;
import org.postgresql.PGConnection;

public class Session {
    static void same(Object expected, Object found) {
        if (!Objects.equals(expected, found)) {
            throw new AssertionError("expected " + expected + ", found " + found);
        }
    }

    interface Work {
        void run() throws Exception;
    }

    static void fails(String sqlstate, Work work) throws Exception {
        try {
            work.run();
        } catch (SQLException e) {
            same(sqlstate, e.getSQLState());
            return;
        }
        throw new AssertionError("no error " + sqlstate);
    }

    /** All rows, columns by name or, without names, all of them. */
    static String rows(ResultSet set, String... names) throws Exception {
        StringJoiner all = new StringJoiner("; ");
        while (set.next()) {
            StringJoiner row = new StringJoiner(" ");
            int count = names.length > 0 ? names.length : set.getMetaData().getColumnCount();
            for (int i = 0; i < count; i++) {
                row.add(String.valueOf(names.length > 0 ? set.getString(names[i]) : set.getString(i + 1)));
            }
            all.add(row.toString());
        }
        set.close();
        return all.toString();
    }

    public static void main(String[] args) throws Exception {
        String url = "jdbc:postgresql://127.0.0.1:" + args[0] + "/tidemill?user=tidemill&prepareThreshold=2";
        try (Connection conn = DriverManager.getConnection(url)) {
            statements(conn);
            metadata(conn);
        }
        System.out.println("ok");
    }

    static void statements(Connection conn) throws Exception {
        Statement sql = conn.createStatement();
        sql.execute("CREATE TABLE t (id integer PRIMARY KEY, n numeric(10,2), s text NOT NULL DEFAULT 'q', at timestamptz, "
            + "t timestamp, d date, tm time, b bytea, a integer[], f double precision, ok boolean, big bigint, u uuid, "
            + "code varchar(7), small smallint, r real)");
        sql.execute("CREATE MATERIALIZED VIEW names AS SELECT s, count(*) AS n FROM t GROUP BY s");
        sql.execute("CREATE VIEW ids AS SELECT id FROM t");
        sql.execute("COMMENT ON COLUMN t.n IS 'worth'");
        UUID uuid = UUID.fromString("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11");
        PreparedStatement insert = conn.prepareStatement("INSERT INTO t VALUES (?,?,?,?,?,?,?,?,?,?,?,?,?,?,?,?)");
        for (int id = 0; id < 6; id++) { // from the third on, parameters and results are binary
            insert.setInt(1, id);
            insert.setBigDecimal(2, new BigDecimal("1.25"));
            insert.setString(3, "x");
            insert.setObject(4, java.time.OffsetDateTime.parse("2024-02-29T12:00:00Z"));
            insert.setObject(5, java.time.LocalDateTime.parse("2024-02-29T12:00:00"));
            insert.setObject(6, java.time.LocalDate.parse("1999-12-31"));
            insert.setObject(7, java.time.LocalTime.parse("01:02:03"));
            insert.setBytes(8, new byte[] {0, -1});
            insert.setArray(9, conn.createArrayOf("int4", new Integer[] {1, null}));
            insert.setDouble(10, 1.5);
            insert.setBoolean(11, true);
            insert.setLong(12, 1L << 40);
            insert.setObject(13, uuid);
            insert.setString(14, "code");
            insert.setShort(15, (short) 3);
            insert.setFloat(16, 1.5f);
            same(1, insert.executeUpdate());
        }
        PreparedStatement select = conn.prepareStatement("SELECT * FROM t WHERE id = ?");
        for (int id = 0; id < 6; id++) {
            select.setInt(1, id);
            ResultSet row = select.executeQuery();
            same(true, row.next());
            same(id, row.getInt(1));
            same(new BigDecimal("1.25"), row.getBigDecimal(2));
            same("2024-02-29T12:00Z", row.getObject(4, java.time.OffsetDateTime.class).toInstant().atOffset(java.time.ZoneOffset.UTC).toString());
            same("2024-02-29T12:00", row.getObject(5, java.time.LocalDateTime.class).toString());
            same("1999-12-31", row.getObject(6, java.time.LocalDate.class).toString());
            same("01:02:03", row.getObject(7, java.time.LocalTime.class).toString());
            same("[0, -1]", Arrays.toString(row.getBytes(8)));
            same("[1, null]", Arrays.toString((Object[]) row.getArray(9).getArray()));
            same(1.5, row.getDouble(10));
            same(true, row.getBoolean(11));
            same(1L << 40, row.getLong(12));
            same(uuid, row.getObject(13));
        }
        insert.setInt(1, 50);
        for (int i = 2; i <= 16; i++) {
            insert.setNull(i, Types.NULL);
        }
        insert.setString(3, "nulls");
        same(1, insert.executeUpdate());
        PreparedStatement batch = conn.prepareStatement("INSERT INTO t (id, s) VALUES (?, ?)");
        for (int id = 100; id < 400; id++) {
            batch.setInt(1, id);
            batch.setString(2, "b" + id % 3);
            batch.addBatch();
        }
        same(300, batch.executeBatch().length);
        fails("23505", () -> sql.executeUpdate("INSERT INTO t (id) VALUES (1)"));

        conn.setAutoCommit(false);
        PreparedStatement pieces = conn.prepareStatement("SELECT id FROM t ORDER BY id");
        pieces.setFetchSize(7);
        ResultSet found = pieces.executeQuery();
        int count = 0;
        while (found.next()) {
            count++;
        }
        same(307, count);
        sql.executeUpdate("INSERT INTO t (id) VALUES (1000)");
        Savepoint savepoint = conn.setSavepoint();
        sql.executeUpdate("INSERT INTO t (id) VALUES (1001)");
        conn.rollback(savepoint);
        conn.releaseSavepoint(conn.setSavepoint("named"));
        conn.commit();
        conn.setReadOnly(true);
        fails("25006", () -> sql.executeUpdate("DELETE FROM t"));
        conn.rollback();
        conn.setReadOnly(false);
        conn.setAutoCommit(true);
        same("1000", rows(sql.executeQuery("SELECT id FROM t WHERE id >= 1000")));
        conn.setTransactionIsolation(Connection.TRANSACTION_SERIALIZABLE);
        same(Connection.TRANSACTION_SERIALIZABLE, conn.getTransactionIsolation());

        var copy = conn.unwrap(PGConnection.class).getCopyAPI();
        same(2L, copy.copyIn("COPY t (id, s) FROM STDIN (FORMAT csv)", new StringReader("5000,x\n5001,y\n")));
        StringWriter out = new StringWriter();
        copy.copyOut("COPY (SELECT id, s FROM t WHERE id >= 5000 ORDER BY id) TO STDOUT", out);
        same("5000\tx\n5001\ty\n", out.toString());
        Statement limited = conn.createStatement();
        limited.setQueryTimeout(1);
        fails("57014", () -> limited.executeQuery("SELECT count(*) FROM generate_series(1, 5000000) AS a, generate_series(1, 5000) AS b"));
        same("5000", rows(sql.executeQuery("SELECT max(id) - 1 FROM t")));
    }

    static void metadata(Connection conn) throws Exception {
        DatabaseMetaData meta = conn.getMetaData();
        same("PostgreSQL", meta.getDatabaseProductName());
        same("t TABLE", rows(meta.getTables(null, "public", "t", null), "TABLE_NAME", "TABLE_TYPE"));
        same("names MATERIALIZED VIEW; ids VIEW",
            rows(meta.getTables(null, "public", "%", new String[] {"VIEW", "MATERIALIZED VIEW"}), "TABLE_NAME", "TABLE_TYPE"));
        same("id int4 0 null; n numeric 1 worth; s text 0 null; at timestamptz 1 null",
            rows(meta.getColumns(null, "public", "t", null), "COLUMN_NAME", "TYPE_NAME", "NULLABLE", "REMARKS").replaceAll("; t timestamp .*", ""));
        same("id 1 t_pkey", rows(meta.getPrimaryKeys(null, "public", "t"), "COLUMN_NAME", "KEY_SEQ", "PK_NAME"));
        same("t_pkey id f", rows(meta.getIndexInfo(null, "public", "t", false, false), "INDEX_NAME", "COLUMN_NAME", "NON_UNIQUE"));
        same("", rows(meta.getImportedKeys(null, "public", "t"), "FK_NAME"));
        same("tidemill", rows(meta.getCatalogs(), "TABLE_CAT"));
        same(true, rows(meta.getSchemas(), "TABLE_SCHEM").contains("public"));
        same(true, rows(meta.getTypeInfo(), "TYPE_NAME").contains("timestamptz"));
        same("id", rows(meta.getBestRowIdentifier(null, "public", "t", DatabaseMetaData.bestRowSession, true), "COLUMN_NAME"));
        for (ResultSet empty : List.of(meta.getProcedures(null, null, "nope"), meta.getFunctions(null, null, "nope"),
            meta.getUDTs(null, null, "nope", null), meta.getExportedKeys(null, "public", "t"))) {
            same("", rows(empty));
        }
        PreparedStatement asked = conn.prepareStatement("SELECT s, n FROM t WHERE id = ? AND n > ?");
        same("int4 numeric", asked.getParameterMetaData().getParameterTypeName(1) + " " + asked.getParameterMetaData().getParameterTypeName(2));
        ResultSetMetaData columns = asked.getMetaData();
        same("s text n numeric 10 2", columns.getColumnLabel(1) + " " + columns.getColumnTypeName(1) + " " + columns.getColumnLabel(2)
            + " " + columns.getColumnTypeName(2) + " " + columns.getPrecision(2) + " " + columns.getScale(2));
    }
}
