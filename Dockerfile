# One image for back and fronts: built in one stage, run as an ordinary user in another.
ARG PYTHON_IMAGE=python:3.11-slim
FROM ${PYTHON_IMAGE} AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY front front
COPY back back
COPY shared shared
RUN python -m venv /opt/squall && /opt/squall/bin/pip install --no-cache-dir '.[aws]'

FROM ${PYTHON_IMAGE}
RUN useradd --uid 10001 --create-home --home-dir /var/lib/squall squall \
 && install -d -o squall -g squall /certs /tls /var/lib/squall/data
COPY --from=build /opt/squall /opt/squall
ENV PATH=/opt/squall/bin:$PATH PYTHONUNBUFFERED=1
USER squall
WORKDIR /var/lib/squall
CMD ["squall", "--help"]
