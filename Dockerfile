# The site for production, behind a proxy: docker build --pull --tag site .
# The base may be any image of Debian that has Python 3.11 or newer with its module venv.
ARG BASE=docker.io/library/python:3.13-slim-bookworm

FROM ${BASE} AS packages
COPY requirements.txt /
# pip has an environment of its own, which stays behind. Every package is a wheel, so no compiler is needed.
RUN python3 -m venv /pip \
    && python3 -m venv --without-pip /site/.venv \
    && /pip/bin/pip --python /site/.venv/bin/python --no-cache-dir install \
        --only-binary :all: --require-hashes --requirement /requirements.txt

FROM ${BASE}
WORKDIR /site
COPY --from=packages /site/.venv .venv
COPY . .
# The code is root's, and only var/ is the site's. pip of the base image goes: nothing is installed here any more.
RUN useradd --uid 10001 --user-group --no-create-home --home-dir /site --shell /usr/sbin/nologin site \
    && chmod -R a+rX,go-w * \
    && .venv/bin/python -m compileall -q * \
    && install --directory --owner site --group site --mode 0700 var \
    && rm -rf /usr/local/bin/pip* /usr/local/lib/python3*/ensurepip /usr/local/lib/python3*/site-packages/pip*
ENV PATH=/site/.venv/bin:$PATH HOST=0.0.0.0 PORT=8080
USER 10001:10001
VOLUME /site/var
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=20s CMD ["python", "deploy/healthcheck.py"]
# As in the Procfile. Secrets come from the environment, see .env.example.
CMD ["python", "app.py", "--production", "--config", "deploy/behind-proxy.conf"]
