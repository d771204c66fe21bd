# One image for back, fronts, certificates and the command line: built in stages, run as an
# ordinary user.
ARG PYTHON_IMAGE=python:3.11-slim

# The dependencies are a layer of their own: a change of the code does not install them again.
FROM ${PYTHON_IMAGE} AS dependencies
RUN python3 -m venv /opt/squall
WORKDIR /src
COPY pyproject.toml ./
RUN mkdir front back shared \
 && touch README.md LICENSE front/__init__.py back/__init__.py shared/__init__.py \
 && /opt/squall/bin/pip install --no-cache-dir '.[aws]' \
 && /opt/squall/bin/pip uninstall --yes squall \
 && echo /opt/squall-code >"$(echo /opt/squall/lib/python3*/site-packages)/squall-code.pth"

FROM dependencies AS code
COPY README.md LICENSE ./
COPY front front
COPY back back
COPY shared shared
RUN /opt/squall/bin/pip install --no-cache-dir --no-deps --target /opt/squall-code .

FROM ${PYTHON_IMAGE}
# Volumes take owner and mode from the folders that they cover.
RUN useradd --uid 10001 --no-create-home --home-dir /var/lib/squall --shell /usr/sbin/nologin squall \
 && install -d -m 0700 -o squall -g squall /certs /tls /var/lib/squall /var/lib/squall/data \
      /roles /roles/nats /roles/back /roles/front /roles/tap
COPY --from=dependencies /opt/squall /opt/squall
COPY --from=code /opt/squall-code /opt/squall-code
ENV PATH=/opt/squall-code/bin:/opt/squall/bin:$PATH PYTHONUNBUFFERED=1
USER squall
WORKDIR /var/lib/squall
CMD ["squall", "--help"]
