# CPU image of the command `transfer-pipeline`; see docs/install.md. Runs, stores and reports are written to /work.
FROM python:3.11-slim
ENV PIP_NO_CACHE_DIR=1 PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu GIT_PYTHON_REFRESH=quiet
COPY . /src
RUN pip install -r /src/requirements.txt && pip install --no-deps /src && rm -r /src
WORKDIR /work
ENTRYPOINT ["transfer-pipeline"]
CMD ["main"]
