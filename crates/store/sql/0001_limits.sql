-- Schema 1: limits across instances. Unlogged: a crash empties them, and then nothing is lent until old leases ended.
CREATE UNLOGGED TABLE bucket (
    tenant text NOT NULL,
    lim text NOT NULL,
    tokens double precision NOT NULL,
    at bigint NOT NULL,
    rate double precision NOT NULL,
    burst double precision NOT NULL,
    PRIMARY KEY (tenant, lim)
) WITH (fillfactor = 50);
CREATE UNLOGGED TABLE stock (
    tenant text NOT NULL,
    lim text NOT NULL,
    instance bigint NOT NULL,
    held double precision NOT NULL,
    until bigint NOT NULL,
    PRIMARY KEY (tenant, lim, instance)
) WITH (fillfactor = 50);
CREATE UNLOGGED TABLE seat (
    tenant text NOT NULL,
    instance bigint NOT NULL,
    held integer NOT NULL,
    until bigint NOT NULL,
    PRIMARY KEY (tenant, instance)
) WITH (fillfactor = 50);
CREATE UNLOGGED TABLE demand (
    tenant text NOT NULL,
    instance bigint NOT NULL,
    asked double precision NOT NULL,
    seen bigint NOT NULL,
    PRIMARY KEY (tenant, instance)
) WITH (fillfactor = 50);
CREATE UNLOGGED TABLE lease (
    instance bigint PRIMARY KEY,
    rate double precision NOT NULL,
    burst double precision NOT NULL,
    places integer NOT NULL,
    until bigint NOT NULL
) WITH (fillfactor = 50);
